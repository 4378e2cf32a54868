"""What a bundle says to rows, one at a time on one thread, kept on the disk: a second run reads it."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import edge_s2s
from edge_s2s.confidence import features
from edge_s2s.faithfulness import Evidence
from edge_s2s.generation import FinishReason, Generation, GenerationStats
from edge_s2s.manifest import Manifest
from edge_s2s_export.factory.datasets import Row
from edge_s2s_export.factory.outputs import with_draws


@dataclass(frozen=True)
class Answer:
    """One answer, by `generate` with the bundle's defaults, and what it cost."""

    key: str
    text: str
    token_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    source_tokens: int
    wall_s: float
    cpu_s: float
    draws: tuple[str, ...] = ()  # for the careful confidence
    draws_cpu_s: float = 0.0  # of a request for these alone, which reads the source again

    def features(self, source: str) -> dict[str, float]:
        """Those of `edge_s2s.confidence`, for the source that it answers."""
        stats = GenerationStats(
            source_tokens=self.source_tokens, encoder_ms=0, decoder_ms=0, isa="", num_threads=1, providers=()
        )
        generation = Generation(
            text=self.text,
            token_ids=(),
            score=0,
            token_logprobs=self.token_logprobs,
            finish_reason=self.finish_reason,
            stats=stats,
            draws=self.draws,
        )
        values = features(generation, Evidence(source).check(self.text), source)
        assert values, "every answer was decoded"
        return values


def answers(bundle: Path, rows: Sequence[Row], work: Path, *, n_draws: int = 0) -> list[Answer]:
    """Of all rows, in their order. Ctrl-C loses one; what is too long is cut, as for the calibration."""
    with edge_s2s.load(bundle, num_threads=1) as model:
        work.mkdir(parents=True, exist_ok=True)
        path = work / f"{model.manifest.name}-{identity(model.manifest)}-{n_draws}.jsonl"
        kept = _read(path)
        with path.open("a", encoding="utf-8") as file:
            for row in tqdm(rows, desc=model.manifest.name, unit="row", mininterval=1.0):
                if (key := f"{row.set}/{row.id}") not in kept:
                    kept[key] = _answer(model, key, row.source, n_draws)
                    file.write(json.dumps(asdict(kept[key]), ensure_ascii=False) + "\n")
                    file.flush()
    return [kept[f"{row.set}/{row.id}"] for row in rows]


def identity(manifest: Manifest) -> str:
    """What answers depend on; a calibration, a model card or a new version number is not among it."""
    documents = ("LICENSE", "MODEL_CARD.md", "eval.json", "golden.json")
    files = sorted((name, file.sha256) for name, file in manifest.files.items() if name not in documents)
    return hashlib.sha256(repr((files, manifest.generation, manifest.prefix)).encode()).hexdigest()[:12]


def _answer(model: edge_s2s.Seq2SeqModel, key: str, source: str, n_draws: int) -> Answer:
    wall, cpu = time.perf_counter(), time.process_time()
    best, *_ = model.generate([source], truncation=True)[0]
    end, cpu_end = time.perf_counter(), time.process_time()
    [best] = with_draws(model, [source], [best], n_draws)
    return Answer(
        key,
        best.text,
        best.token_logprobs,
        best.finish_reason,
        best.stats.source_tokens,
        end - wall,
        cpu_end - cpu,
        best.draws,
        time.process_time() - cpu_end,
    )


def kept_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines that an earlier run has written; a last one that a kill has cut is cut off."""
    if not path.exists():
        return []
    whole = path.read_bytes()
    complete = whole[: whole.rfind(b"\n") + 1]
    if complete != whole:
        path.write_bytes(complete)
    return [json.loads(line) for line in complete.splitlines()]


def _read(path: Path) -> dict[str, Answer]:
    tuples = ("token_logprobs", "draws")
    return {
        line["key"]: Answer(**{**line, **{name: tuple(line[name]) for name in tuples}})
        for line in kept_lines(path)
    }
