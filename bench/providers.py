"""A bundle's static encoders on accelerators: start-up, time of a source, and what they cost in ROUGE.

edge-s2s-export static CHECKPOINT --bundle CPU.es2s --out BUNDLE.es2s --texts TRAIN.jsonl
EDGE_S2S_DATA=data python -m bench.providers BUNDLE.es2s openvino qnn --out reports/npu.json

The CPU's encoder of the same bundle is what they are compared with, on rows of DialogSum's valid set,
greedily. Answers are kept in WORK as they come, so that a run which was stopped goes on: an emulator takes
its time, which says nothing about a device.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

import edge_s2s
from bench.answers import identity, kept_lines
from bench.results_file import machine
from edge_s2s.devices import find_device
from edge_s2s.providers import PROVIDERS
from edge_s2s_export.factory.datasets import Row, read_rows

ROUGES = ("rouge1", "rouge2", "rougeL")
N_RESAMPLES = 10_000
_GROWTH = """
import gc, sys, edge_s2s
sizes = []
for load in range(50):
    with edge_s2s.load(sys.argv[1], providers=[sys.argv[2]], context_cache=sys.argv[3]):
        pass
    gc.collect()
    sizes.append(round(int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6, 1))
print(f"\\nRSS {sizes[9]} {sizes[49]}")
"""
GREEDY = edge_s2s.GenerationOptions(num_beams=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints a report in JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.providers", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("providers", nargs="+", choices=PROVIDERS)
    parser.add_argument("--rows", type=int, default=100, help="dialogues (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("work-providers"), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the report")
    given = parser.parse_args(arguments)
    given.work.mkdir(exist_ok=True)
    rows = read_rows(Path(os.environ.get("EDGE_S2S_DATA", "../shared/data")), "dialogsum", "valid")
    command = " ".join(["python -m bench.providers", given.bundle.name, *given.providers])
    report: dict[str, Any] = {"command": command, "machine": machine(), "providers": {}}
    with edge_s2s.load(given.bundle) as cpu:
        report["bundle"] = f"{cpu.manifest.name} {cpu.manifest.version}"
        for name in given.providers:
            report["providers"][name] = _measure(name, given.bundle, rows[: given.rows], cpu, given.work)
    text = json.dumps(report, indent=1)
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


def _measure(
    name: str, bundle: Path, rows: Sequence[Row], cpu: edge_s2s.Seq2SeqModel, work: Path
) -> dict[str, Any]:
    device = find_device(PROVIDERS[name], {})
    contexts = work / f"{name}.contexts"
    shutil.rmtree(contexts, ignore_errors=True)
    start = time.perf_counter()
    with edge_s2s.load(bundle, providers=[name], context_cache=contexts):
        load_s = time.perf_counter() - start
    start = time.perf_counter()
    with edge_s2s.load(bundle, providers=[name], context_cache=contexts) as model:
        load_from_contexts_s = time.perf_counter() - start
        limit = model.max_source_len
        sources = [cpu.encode(row.source)[:limit] for row in rows]
        of_bundle = f"{cpu.manifest.name}-{identity(cpu.manifest)}-{limit}"
        answers = {
            "cpu": _answers(cpu, sources, work / f"{of_bundle}-cpu.jsonl"),
            name: _answers(model, sources, work / f"{of_bundle}-{name}.jsonl"),
        }
    growth = [sys.executable, "-P", "-c", _GROWTH, str(bundle), name, str(contexts)]
    printed = subprocess.run(growth, capture_output=True, text=True, check=True).stdout
    sizes = re.findall(r"^RSS (\S+) (\S+)$", printed, flags=re.MULTILINE)[0]
    scorer = RougeScorer(ROUGES, use_stemmer=True)
    scores = {
        who: np.array(
            [
                [100 * score.fmeasure for score in scorer.score(row.targets[0], answer["text"]).values()]
                for row, answer in zip(rows, answers[who], strict=False)
            ]
        )
        for who in answers
    }
    n = min(len(of_one) for of_one in scores.values())
    change = scores[name][:n] - scores["cpu"][:n]
    draws = np.random.default_rng(0).integers(0, n, (N_RESAMPLES, n))
    low, high = np.percentile(change[draws].mean(axis=1), [2.5, 97.5], axis=0)
    same = [a["text"] == b["text"] for a, b in zip(*answers.values(), strict=False)]
    return {
        "plugin": f"{PROVIDERS[name].package} {device.version}",
        "device": device.description,
        "load_s": round(load_s, 2),
        "load_from_contexts_s": round(load_from_contexts_s, 2),
        "rss_mb_after_loads": dict(zip(("10", "50"), map(float, sizes), strict=True)),
        "contexts_mb": round(sum(file.stat().st_size for file in contexts.glob("*")) / 1e6, 1),
        "encoder_ms_median": {
            who: round(float(np.median([answer["encoder_ms"] for answer in of_one])), 1)
            for who, of_one in answers.items()
        },
        "dialogues": n,
        "same_text": round(float(np.mean(same)), 3),
        "rouge": {
            rouge: {
                "cpu": round(float(scores["cpu"][:n, i].mean()), 2),
                name: round(float(scores[name][:n, i].mean()), 2),
                "change_95": [round(float(low[i]), 2), round(float(high[i]), 2)],
            }
            for i, rouge in enumerate(ROUGES)
        },
    }


def _answers(model: edge_s2s.Seq2SeqModel, sources: Sequence[list[int]], path: Path) -> list[dict[str, Any]]:
    """One for each source; those in the file are there already."""
    done = kept_lines(path)
    with path.open("a", encoding="utf-8") as file:
        for input_ids in sources[len(done) :]:
            [[generation]] = model.generate([input_ids], GREEDY)
            answer = {"text": generation.text, "encoder_ms": generation.stats.encoder_ms}
            print(json.dumps(answer), file=file, flush=True)
            print(f"{path.stem}: {len(done) + 1} of {len(sources)}", end="\r", file=sys.stderr)
            done.append(answer)
    return done[: len(sources)]


if __name__ == "__main__":
    main()
