"""A teacher's outputs as targets for its student (sequence-level distillation, https://arxiv.org/abs/1606.07947).

Outputs that would teach something wrong are left out: those that say what the source does not, go round in
circles, never end, or are much longer or shorter than the others.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from edge_s2s.decoder import DecoderModel
from edge_s2s.faithfulness import check
from edge_s2s.threads import MAX_THREADS
from edge_s2s.weights import write_weights
from edge_s2s_export import families
from edge_s2s_export.candidate import greedy_search

Search = Callable[..., torch.Tensor]  # encoded sources, settings of `generate` -> ids, as that returns them
CORE_BATCH = 8  # sources at a time
SORTED_AT_ONCE = 32  # batches of which the texts are sorted by length


@dataclass(frozen=True)
class PseudoLabels:
    """How a teacher labels the sources that its student sees beside, or instead of, the given targets."""

    max_rows: int = 0  # sources; 0: all
    num_beams: int = 4
    no_repeat_ngram_size: int = 0
    length_penalty: float = 1.0  # of beams
    samples: int = 0  # drawn from the teacher for each source, too
    top_p: float = 0.9  # of these
    max_new_tokens: int = 96
    min_ratio: float = 0.0  # of the tokens of target and source
    max_ratio: float = 2.0
    supported: bool = True  # leaves out what names or numbers say that the source does not
    batch_size: int = 32
    seed: int = 0
    repeat: int = 1  # how often an epoch has each pair
    keep_targets: bool = True  # those of the data, beside the teacher's


@dataclass(frozen=True)
class Labelled:
    """`targets` has as many texts for each source as passed. `dropped` counts the others by reason."""

    targets: tuple[tuple[str, ...], ...]
    dropped: Counter[str]


@torch.inference_mode()
def pseudo_labels(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    options: PseudoLabels,
    *,
    on_progress: Callable[[int], None] = lambda _n_sources: None,
) -> Labelled:
    """Labels `sources`, texts with their prefix, by a transformers model and its tokenizer.

    The same arguments give the same texts; `on_progress` gets how many sources are done.
    """
    device, model = model.device, model.eval()
    search = (search_in_core if device.type == "cpu" else search_in_transformers)(model)
    limit = getattr(tokenizer, "model_max_length", None)
    targets: list[tuple[str, ...]] = [()] * len(sources)
    dropped: Counter[str] = Counter()
    done = 0
    for number, batch in enumerate(_batches(sources, options.batch_size)):
        texts = [sources[at] for at in batch]
        encoded = tokenizer(
            texts,
            padding=True,
            truncation=bool(limit and limit < 1e6),
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(device)
        n_source = encoded["attention_mask"].sum(1).tolist()
        torch.manual_seed(options.seed * 1_000_003 + number)
        kept: list[dict[str, None]] = [{} for _ in batch]  # texts, each once, in their order
        for rows in _outputs(model, search, encoded, options):
            n_each = len(rows) // len(batch)
            for row, tokens in enumerate(rows.tolist()):
                at = row // n_each
                text, reason = _judge(tokenizer, tokens, n_source[at], texts[at], options)
                if reason:
                    dropped[reason] += 1
                else:
                    kept[at][text] = None
        for at, found in zip(batch, kept, strict=True):
            targets[at] = tuple(found)
        done += len(batch)
        on_progress(done)
    return Labelled(tuple(targets), dropped)


def _batches(sources: Sequence[str], size: int) -> list[list[int]]:
    """Sources of similar length together: little padding."""
    batches = []
    for first in range(0, len(sources), size * SORTED_AT_ONCE):
        some = range(first, min(first + size * SORTED_AT_ONCE, len(sources)))
        order = sorted(some, key=lambda at: len(sources[at]))
        batches += [order[at : at + size] for at in range(0, len(order), size)]
    return batches


def _outputs(model: Any, search: Search, encoded: Any, options: PseudoLabels) -> list[torch.Tensor]:
    common = {
        "max_new_tokens": options.max_new_tokens,
        "no_repeat_ngram_size": options.no_repeat_ngram_size,
    }
    outputs = [search(encoded, **common, num_beams=options.num_beams, length_penalty=options.length_penalty)]
    if options.samples:
        outputs.append(
            model.generate(
                **encoded,
                **common,
                num_beams=1,
                do_sample=True,
                top_k=0,
                top_p=options.top_p,
                num_return_sequences=options.samples,
            )
        )
    return outputs


def search_in_transformers(model: Any) -> Search:
    """The model's own beam search: fast where many rows fit a GPU."""

    def search(encoded: Any, **settings: Any) -> torch.Tensor:
        outputs: torch.Tensor = model.generate(**encoded, **settings, do_sample=False)
        return outputs

    return search


def search_in_core(model: Any) -> Search:
    """The same tokens from the runtime's decoder, which takes a quarter of the time on a CPU."""
    spec = families.describe(model)
    n_threads = min(torch.get_num_threads(), MAX_THREADS)
    core = DecoderModel(write_weights(spec.keys, spec.tensors), num_threads=n_threads)
    start, pad = core.dims.decoder_start_token_id, core.dims.pad_token_id
    if pad < 0:  # it has none
        pad = core.dims.eos_token_id

    def search(encoded: Any, **settings: Any) -> torch.Tensor:
        defaults = dataclasses.replace(greedy_search(spec.generation), **settings)
        masked = zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
        sources = [ids[mask.bool()].tolist() for ids, mask in masked]
        rows: list[torch.Tensor] = []
        for batch in (sources[at : at + CORE_BATCH] for at in range(0, len(sources), CORE_BATCH)):
            longest = max(map(len, batch))
            with core.session(len(batch), defaults.num_beams, longest, defaults.max_new_tokens) as session:
                for at, source in enumerate(batch):
                    session.set_source(at, spec.cross_kv(source))
                rows += [torch.tensor([start, *best.token_ids]) for [best] in session.generate(defaults)]
        return pad_sequence(rows, batch_first=True, padding_value=pad)

    return search


def _judge(
    tokenizer: Any, tokens: list[int], n_source: int, source: str, options: PseudoLabels
) -> tuple[str, str]:
    """The text, and why it is left out, if it is."""
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    if tokenizer.eos_token_id not in tokens[1:]:
        return text, "no end"
    ratio = (tokens.index(tokenizer.eos_token_id, 1) - 1) / n_source
    if not text or not options.min_ratio <= ratio <= options.max_ratio:
        return text, "length"
    findings = check(text, source)
    if findings.loop:
        return text, "loop"
    if options.supported and (findings.names or findings.numbers):
        return text, "unsupported"
    return text, ""
