"""Rows of the data folder as pairs to train on and rows to measure on; `DATA` names where each set is public.

A set is a folder with `train.jsonl.zst` and `valid.jsonl.zst`. A row has `source` and `target`, or `targets`,
several references; a `query`, if there is one, stands before the source. The set `examples` needs no file.
"""

import hashlib
import io
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_s2s.faithfulness import Evidence
from edge_s2s_export.errors import ExportError
from edge_s2s_export.probe_texts import probe_texts

from .recipe import DataSet, Recipe
from .slots import slot_errors

EXAMPLES = "examples"  # texts and their first sentences, for trying the factory
N_EXAMPLES = {"train": 500, "valid": 60}
OVERLAPPING = "train_ids_overlapping_valid_or_test.json"  # of a set's folder: rows that are left out


class Origin(NamedTuple):
    """Where a set is public, and how a bundle names it."""

    url: str
    licence: str


DATA = {
    "dialogsum": Origin("https://github.com/cylnlp/dialogsum", "DialogSum, CC BY-NC-SA 4.0"),
    "qmsum_span": Origin("https://github.com/Yale-LILY/QMSum", "QMSum, MIT"),
    "convosumm_email": Origin("https://github.com/Yale-LILY/ConvoSumm", "ConvoSumm e-mail, CC BY-SA 4.0"),
    "mts_dialog": Origin("https://github.com/abachaa/MTS-Dialog", "MTS-Dialog, CC BY 4.0"),
    "aci_bench": Origin("https://github.com/wyim/aci-bench", "ACI-Bench, CC BY 4.0"),
    "scitldr": Origin("https://github.com/allenai/scitldr", "SciTLDR, Apache-2.0"),
    "openstax_summary": Origin("https://github.com/openstax", "OpenStax textbooks, CC BY 4.0"),
    "techdoc_abstract": Origin(
        "https://github.com/rust-lang/rfcs, ethereum/EIPs, kubernetes/enhancements and python/peps",
        "Technical documents, CC0, Apache-2.0, MIT",
    ),
    "acl_abstract_title": Origin("https://github.com/acl-org/acl-anthology", "ACL Anthology, CC BY 4.0"),
    "digitalgov_news": Origin("https://github.com/GSA/digitalgov.gov", "Digital.gov, public domain"),
    "e2e_nlg": Origin("https://github.com/tuetschek/e2e-dataset", "E2E NLG Challenge, CC BY-SA 4.0"),
    "disfl_qa": Origin("https://github.com/google-research-datasets/Disfl-QA", "Disfl-QA, CC BY 4.0"),
}


@dataclass(frozen=True)
class Row:
    """One row; `source` without a prefix."""

    id: str
    source: str
    targets: tuple[str, ...]
    set: str


class Pair(NamedTuple):
    """What a network is trained on: `source` with its prefix."""

    source: str
    target: str


def read_rows(folder: Path, name: str, split: str, *, may_be_blank: bool = False) -> list[Row]:
    """The rows of a set. Raises `ExportError` for a missing or empty file and for a row without target, or
    without source unless that `may_be_blank`."""
    if name == EXAMPLES:
        return _examples(split)
    path = folder / name / f"{split}.jsonl.zst"
    plain = path.with_suffix("")
    if plain.is_file():
        path = plain
    if not path.is_file():
        origin = f"; it is public at {DATA[name].url}" if name in DATA else ""
        raise ExportError(f"{path}: expected this file of the data folder, found none{origin}")
    rows = [
        _row(line, f"{path}, line {number}", name, may_be_blank)
        for number, line in enumerate(_lines(path), 1)
    ]
    if not rows:
        raise ExportError(f"{path}: expected at least one row, found an empty file")
    return rows


def _examples(split: str) -> list[Row]:
    texts = probe_texts(sum(N_EXAMPLES.values()))
    chosen = texts[: N_EXAMPLES["train"]] if split == "train" else texts[N_EXAMPLES["train"] :]
    return [
        Row(f"{split}-{i}", text, (text.partition("\n")[0].partition(". ")[0],), EXAMPLES)
        for i, text in enumerate(chosen)
    ]


def _lines(path: Path) -> Iterator[str]:
    if path.suffix != ".zst":
        yield from io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8", newline="\n")
        return
    import zstandard  # of the extra `export`; rows in plain .jsonl need none

    try:
        with zstandard.open(path, "rt", encoding="utf-8", newline="\n") as file:
            yield from file
    except (zstandard.ZstdError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: expected Zstandard with text in UTF-8; {error}") from error


def _row(line: str, where: str, name: str, may_be_blank: bool) -> Row:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ExportError(f"{where}: expected a JSON object, found {line[:60]!r}") from error
    if not isinstance(values, dict):
        raise ExportError(f"{where}: expected a JSON object, found {line[:60]!r}")
    targets = values.get("targets") or [values.get("target")]
    source = values.get("source")
    for key, text in (("source", source), *(("target", target) for target in targets)):
        blank_is_wrong = key == "target" or not may_be_blank
        if not isinstance(text, str) or (blank_is_wrong and not text.strip()):
            raise ExportError(f"{where}: expected a {key}, a text that is not blank; found {text!r:.60}")
    if query := values.get("query"):
        source = f"{query}\n{source}"
    return Row(str(values.get("id", where)), str(source), tuple(targets), name)


def train_pairs(recipe: Recipe, folder: Path) -> list[Pair]:
    """Pairs of all sets, without those that a filter leaves out, each as often as its set says.

    `blank` leaves out pairs of a blank source, which are an error without it; `unsupported` leaves out
    targets with numbers or names that their source does not have (https://arxiv.org/abs/2102.09130), `slots`
    those that do not say what an E2E representation says. A source is what `max_source_words` leave of it: a
    target must not rest on what the network never reads.
    """
    pairs = []
    for data in recipe.data:
        if not data.repeat:
            continue
        rows = read_rows(folder, data.name, "train", may_be_blank="blank" in data.filters)
        rows = _without_overlap(rows, folder / data.name / OVERLAPPING)
        kept = [
            Pair(data.prefix + source, target)
            for row in rows[: data.max_rows or None]
            for source in [_first_words(row.source, data.max_source_words)]
            for target in row.targets
            if passes(data, source, target)
        ]
        given = [*kept]
        if data.swap:
            kept += [Pair(*(swapped(text, data.swap) for text in pair)) for pair in given]
        if data.speakers:
            kept += [named(pair, data.speakers, data.names) for pair in given]
        if not kept:
            raise ExportError(
                f"data set {data.name}: expected pairs to train on, found none of {len(rows)} that pass"
                f" the filters {', '.join(data.filters) or '(none)'}"
            )
        pairs += kept * data.repeat
    return pairs


def valid_rows(recipe: Recipe, folder: Path) -> list[Row]:
    """Rows to measure on, those of the main set first."""
    return [
        row
        for data in recipe.data
        for row in read_rows(folder, data.name, "valid")[: data.max_valid_rows or None]
    ]


def passes(data: DataSet, source: str, target: str) -> bool:
    """Whether the set's filters let a pair through; `source` without prefix."""
    if data.max_target_words and len(target.split()) > data.max_target_words:
        return False
    if "blank" in data.filters and not source.strip():
        return False
    if "slots" in data.filters and slot_errors(source, target):
        return False
    if "unsupported" in data.filters:
        evidence = Evidence(source)
        return not (evidence.new_numbers(target) or evidence.new_names(target))
    return True


def swapped(text: str, names: Sequence[str]) -> str:
    """The text with the next of `names` for each, and the first for the last."""
    return _replaced(text, dict(zip(names, [*names[1:], *names[:1]], strict=True)))


def named(pair: Pair, speakers: Sequence[str], names: Sequence[str]) -> Pair:
    """The pair with another one of `names` for each speaker, the same for the same pair each time."""
    seed = int.from_bytes(hashlib.sha256("\n".join(pair).encode()).digest()[:8])
    chosen = random.Random(seed).sample(names, len(speakers))
    return Pair(*(_replaced(text, dict(zip(speakers, chosen, strict=True))) for text in pair))


def _first_words(text: str, n_words: int) -> str:
    """The text up to the end of its `n_words`-th word, with its lines; all of it if that is 0."""
    return "".join(re.findall(r"\s*\S+", text)[:n_words]) if n_words else text


def _replaced(text: str, by: Mapping[str, str]) -> str:
    longest_first = sorted(map(re.escape, by), key=len, reverse=True)
    return re.sub("|".join(longest_first), lambda match: by[match[0]], text)


def _without_overlap(rows: list[Row], listed: Path) -> list[Row]:
    if not listed.is_file():
        return rows
    document = json.loads(listed.read_text(encoding="utf-8"))
    dropped = {str(item) for item in document}
    return [row for row in rows if row.id not in dropped]
