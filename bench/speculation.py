"""What drafts copied from the source bring (`prompt_lookup_num_tokens`), and that they change nothing.

python -m bench.speculation --data DATA                                      DialogSum, the default model
python -m bench.speculation --data DATA --set disfl_qa disfluency-repair.es2s
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import edge_s2s
from bench.results_file import machine
from edge_s2s.generation import GenerationOptions
from edge_s2s_export.factory.datasets import read_rows

# Drafts are for greedy search alone: with beams they must be off by themselves.
SEARCHES: Mapping[str, GenerationOptions] = {
    "greedy": GenerationOptions(num_beams=1, no_repeat_ngram_size=0),
    "greedy with rules": GenerationOptions(
        num_beams=1, no_repeat_ngram_size=3, repetition_penalty=1.2, encoder_repetition_penalty=1.1
    ),
    "four beams": GenerationOptions(num_beams=4),
}


def measure(
    model: edge_s2s.Seq2SeqModel, texts: Sequence[str], options: GenerationOptions, n_draft: int, rounds: int
) -> list[str]:
    """A row of the table: all texts without and with drafts, in turn, `rounds` times."""
    totals: dict[int, list[float]] = {0: [], n_draft: []}
    tokens: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    for _ in range(rounds):
        for n, times in totals.items():
            chosen = replace(options, prompt_lookup_num_tokens=n)
            results = [model.generate([text], chosen)[0][0] for text in texts]
            times.append(sum(result.stats.decoder_ms for result in results))
            tokens[n] = [(result.token_ids, result.score) for result in results]
    n_tokens = sum(len(ids) for ids, _ in tokens[0])
    differing = sum(one != other for one, other in zip(tokens[0], tokens[n_draft], strict=True))
    off, on = (median(times) for times in totals.values())
    ratios = sorted(a / b for a, b in zip(*totals.values(), strict=True))
    spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return [f"{n_tokens}", f"{off / n_tokens:.4f}", f"{on / n_tokens:.4f}", spread, f"{differing}"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a Markdown table of decode times; ratios are of tokens/s, median and range of the rounds."""
    parser = argparse.ArgumentParser(prog="python -m bench.speculation", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("bundle", nargs="?", help="default: the one that ships with edge_s2s")
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGE_S2S_DATA"), help="folder of sets")
    parser.add_argument("--set", default="dialogsum", help="its valid split is read (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=None, help="the first ones only")
    parser.add_argument("--draft", type=int, default=8, help="prompt_lookup_num_tokens (default: 8)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    if given.data is None:
        parser.error("expected --data or EDGE_S2S_DATA")
    texts = [row.source for row in read_rows(Path(given.data), given.set, "valid")[: given.rows]]
    here = machine()
    with edge_s2s.load(given.bundle, num_threads=given.threads) as model:
        print(f"{here['cpu']}; {given.threads} thread(s); {given.set}, {len(texts)} rows;", end=" ")
        print(f"{given.rounds} rounds, off and on in turn; drafts of up to {given.draft} tokens\n")
        print("| search | tokens | off, ms/token | on, ms/token | tokens/s, on to off | rows that differ |")
        print("|---|---|---|---|---|---|")
        for name, options in SEARCHES.items():
            cells = measure(model, texts, options, given.draft, given.rounds)
            print(f"| {' | '.join([name, *cells])} |", flush=True)


if __name__ == "__main__":
    main()
