"""Everything that a build measures, as one document: scores of all systems on all sets, gates, agreement.

It holds no time and no date, so that the same build gives the same bytes; `eval.json` of the bundle has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .baselines import baselines
from .calibration import Confidence, calibrate
from .datasets import Row
from .evaluation import (
    ROUGES,
    RowScores,
    chrf,
    faithfulness,
    interval,
    length_ratio,
    paired_change,
    score_rows,
)
from .outputs import N_DRAWS, Output
from .recipe import Recipe
from .slots import SlotErrors, parse_mr, slot_error_rate
from .task_gates import Measured, agreement, failures, gates

METRICS = ("bleu", *ROUGES)
SYSTEMS = ("teacher", "float32", "int8")
MAX_AGREEMENT_ROWS = 500
N_DIGITS = 4

CONFIDENCE_METRIC = "rougeL"

Document = dict[str, Any]


def measure(
    recipe: Recipe,
    rows: Sequence[Row],
    bundles: Mapping[str, Path],
    outputs: Mapping[str, Sequence[Output]],
) -> tuple[Document, Document]:
    """The document, and what the bundle's manifest gets as extensions.

    `bundles` and `outputs` have the `SYSTEMS`, outputs in the order of the rows.
    """
    sets: dict[str, Document] = {}
    for data in recipe.data:
        places = [i for i, row in enumerate(rows) if row.set == data.name]
        of_set = {system: [outputs[system][i].text for i in places] for system in SYSTEMS}
        template = recipe.template if data == recipe.main else ""
        sets[data.name] = _measure_set([rows[i] for i in places], of_set, template)
    scores = {name: of_set.pop("scores") for name, of_set in sets.items()}
    confidence = _confidence(recipe, rows, outputs["int8"], scores)
    measured = _measured(recipe, rows, bundles, outputs, scores[recipe.main.name])
    checked = gates(recipe, measured)
    document = {
        "metrics": {
            "bleu": "sacrebleu, 13a, all references",
            "rouge": "rouge-score, F, stemmer, mean over references; _max: best reference",
            "intervals": "95 %, 10000 paired resamples of rows",
        },
        "sets": sets,
        "size_mb": {system: path.stat().st_size / 1e6 for system, path in bundles.items()},
        "agreement": asdict(measured.agreement),
        "gates": [{**gate._asdict(), "passes": gate.passes} for gate in checked],
        "refused": [*failures(checked).values()],
        "confidence": _told(confidence),
    }
    short = rounded(document)
    assert isinstance(short, dict)
    extensions: Document = {}
    for calibration in () if confidence is None else confidence.calibrations:
        extensions |= calibration.to_extension()
    return short, extensions


def _measure_set(rows: Sequence[Row], outputs: Mapping[str, Sequence[str]], template: str) -> Document:
    sources, targets = [row.source for row in rows], [row.targets for row in rows]
    others = baselines(sources, outputs["int8"], template)
    scores = {name: score_rows(targets, texts) for name, texts in {**outputs, **others}.items()}
    systems = {
        name: {
            **{metric: [*interval(scores[name], metric)] for metric in METRICS},
            **{f"{metric}_max": float(scores[name].rouge_max[metric].mean()) for metric in ROUGES},
            "chrf": chrf(targets, texts),
            "length_ratio": length_ratio(targets, texts),
            **asdict(faithfulness(sources, texts)),
            **_slots(sources, texts),
        }
        for name, texts in {**outputs, **others}.items()
    }
    changes = {
        f"{after} - {before}": {
            metric: [*paired_change(scores[before], scores[after], metric)] for metric in METRICS
        }
        for before, after in (
            ("float32", "int8"),
            ("teacher", "int8"),
            ("lead-3", "int8"),
            ("shuffled", "int8"),
        )
    }
    references = [row.targets[0] for row in rows]
    return {
        "n_rows": len(rows),
        "systems": systems,
        "references": {**asdict(faithfulness(sources, references)), **_slots(sources, references)},
        "changes": changes,
        "scores": scores,
    }


def _confidence(
    recipe: Recipe,
    rows: Sequence[Row],
    outputs: Sequence[Output],
    scores: Mapping[str, Mapping[str, RowScores]],
) -> Confidence | None:
    """Fitted to all sets together."""
    prefixes = {data.name: data.prefix for data in recipe.data}
    of_set = {name: iter(systems["int8"].rouge[CONFIDENCE_METRIC]) for name, systems in scores.items()}
    return calibrate(
        [output.features for output in outputs],
        np.array([next(of_set[row.set]) for row in rows]),
        [row.set for row in rows],
        [prefixes[row.set] for row in rows],
        metric=CONFIDENCE_METRIC,
        n_draws=N_DRAWS,
    )


def _told(confidence: Confidence | None) -> Document:
    if confidence is None:
        return {}
    return {
        "good": confidence.calibrations[0].good,
        "n_rows": confidence.calibrations[0].n_documents,
        "n_draws": confidence.calibrations[-1].n_draws,
        "ece": dict(confidence.ece),
        "methods": {name: asdict(method) for name, method in confidence.methods.items()},
        "risk_at_coverage": dict(confidence.coverage),
    }


def _slots(sources: Sequence[str], outputs: Sequence[str]) -> dict[str, float]:
    if not all(map(parse_mr, sources)):
        return {}
    return {"slot_error_rate": slot_error_rate(sources, outputs).rate}


def _measured(
    recipe: Recipe,
    rows: Sequence[Row],
    bundles: Mapping[str, Path],
    outputs: Mapping[str, Sequence[Output]],
    scores: Mapping[str, RowScores],
) -> Measured:
    places = [i for i, row in enumerate(rows) if row.set == recipe.main.name]
    some = places[:MAX_AGREEMENT_ROWS]
    sources, texts = [rows[i].source for i in places], [outputs["int8"][i].text for i in places]
    ours = faithfulness(sources, texts)
    theirs = faithfulness(sources, [rows[i].targets[0] for i in places])
    slots: SlotErrors | None = slot_error_rate(sources, texts) if all(map(parse_mr, sources)) else None
    return Measured(
        size_bytes=bundles["int8"].stat().st_size,
        agreement=agreement(
            str(bundles["float32"]),
            str(bundles["int8"]),
            [outputs["float32"][i].source_ids for i in some],
            [outputs["float32"][i].token_ids for i in some],
            [outputs["int8"][i].token_ids for i in some],
        ),
        teacher=scores["teacher"],
        float32=scores["float32"],
        int8=scores["int8"],
        faithfulness=ours,
        names=ours.names_per_output / theirs.names_per_output if theirs.names_per_output else 1.0,
        slots=slots,
    )


def rounded(value: object) -> object:
    """Numbers with as many digits as mean something."""
    if isinstance(value, Mapping):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.{N_DIGITS}g}") if isinstance(value, float) else value
