"""What each part of a recipe's distillation is worth: the student once more without it, or with it.

    ablate(load_recipe("e2e-data-to-text"), data=Path("data"), work=Path("work"), steps=150)

Students share the teacher and its labels, see as many steps and the same batches where they have the same
pairs, and are measured as float32 bundles, so that no rounding comes between them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge_s2s_export.errors import ExportError

from .build import Chain
from .display import Display
from .evaluation import Interval, RowScores, interval, paired_change, score_rows
from .measurement import rounded
from .outputs import read_outputs
from .recipe import Recipe
from .report import read_log
from .training import LOG

AS_IT_IS = "as the recipe"
_ON_POLICY = 0.2  # of the steps
FILE, TABLE = "ablation.json", "ablation.md"


@dataclass(frozen=True)
class Ablated:
    """A student: its scores on the main set, what they are above those of the recipe, and its last losses."""

    scores: Mapping[str, Interval]  # metric ->
    changes: Mapping[str, Interval]  # metric -> paired, 0 for the recipe itself
    valid_loss: float  # nats a label
    wrong_source_loss: float


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """The recipe as it is, and with one part of its distillation switched off or on.

    Raises `ExportError` if it has no student.
    """
    student, labels = recipe.student, recipe.pseudo_labels
    if student is None:
        raise ExportError(f"{recipe.name}: expected a recipe with a student, found that the teacher is built")
    loss = student.distillation

    def with_student(**changes: Any) -> Recipe:
        return replace(recipe, student=replace(student, **changes))

    def with_loss(**changes: Any) -> Recipe:
        return with_student(distillation=replace(loss, **changes))

    found = {
        AS_IT_IS: recipe,
        "labels alone": with_loss(label_weight=1.0, logits_weight=0.0, hidden_weight=0.0),
    }
    if loss.logits_weight:
        found["logits alone"] = with_loss(label_weight=0.0, logits_weight=1.0, hidden_weight=0.0)
        found["temperature 1"] = with_loss(temperature=1.0)
    if loss.hidden_weight:
        found["without hidden states"] = with_loss(hidden_weight=0.0)
    elif student.init == "shrink":  # as wide as its teacher
        found["with hidden states"] = with_loss(hidden_weight=0.5)
    if loss.on_policy_share:
        found["never on policy"] = with_loss(on_policy_share=0.0)
    else:
        found["a fifth on policy"] = with_loss(on_policy_share=_ON_POLICY)
    if student.init == "shrink":
        found["new weights"] = with_student(init="new")
    if labels:
        found["without pseudo-labels"] = replace(recipe, pseudo_labels=None)
        if labels.keep_targets:
            found["pseudo-labels alone"] = replace(recipe, pseudo_labels=replace(labels, keep_targets=False))
    return found


def ablate(
    recipe: Recipe, *, data: Path, work: Path, steps: int | None = None, display: Display | None = None
) -> Path:
    """Trains and measures all variants that are not in `work` yet; the folder has `ablation.json` and
    `ablation.md`. `steps` is how long each student learns, by default as long as the recipe says.
    """
    if recipe.student is not None and steps is not None:
        training = replace(recipe.student.training, steps=steps)
        recipe = replace(recipe, student=replace(recipe.student, training=training))
    chains = {
        name: Chain(variant, data, work, display or Display()) for name, variant in variants(recipe).items()
    }
    first = chains[AS_IT_IS]
    with first.work.locked():
        folders = {}
        for name, chain in chains.items():
            chain.display.say(f"-- {name}")
            folders[name] = (chain.student, chain.outputs("float32"))

        def make(stage: Path) -> None:
            scores = {name: _score(first, outputs) for name, (_, outputs) in folders.items()}
            ablated = {
                name: _ablated(recipe.metrics, scores[AS_IT_IS], scores[name], student / LOG)
                for name, (student, _) in folders.items()
            }
            document = {name: asdict(one) for name, one in ablated.items()}
            (stage / FILE).write_text(json.dumps(rounded(document), indent=1) + "\n", encoding="utf-8")
            (stage / TABLE).write_text(table(recipe, ablated), encoding="utf-8")

        return first.work.stage("ablation", {"data": first.data, "folders": folders}, make)


def table(recipe: Recipe, ablated: Mapping[str, Ablated]) -> str:
    """In Markdown."""
    assert recipe.student
    lines = [
        f"`{recipe.name}`, students of {recipe.student.training.steps} steps in float32 on the valid rows of"
        f" {recipe.main.name}; 95 % intervals, changes paired by row.",
        "",
        "| student | "
        + "".join(f"{metric} | change | " for metric in recipe.metrics)
        + "loss | wrong source |",
        "|---|" + "---|---|" * len(recipe.metrics) + "---|---|",
    ]
    for name, one in ablated.items():
        cells = []
        for metric in recipe.metrics:
            low, high = one.scores[metric][1:]
            cells.append(f"{one.scores[metric].value:.1f} ({low:.1f} to {high:.1f})")
            change, low, high = one.changes[metric]
            cells.append("" if name == AS_IT_IS else f"{change:+.1f} ({low:+.1f} to {high:+.1f})")
        losses = f"{one.valid_loss:.2f} | {one.wrong_source_loss:.2f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {losses} |")
    return "\n".join(lines) + "\n"


def _score(chain: Chain, outputs: Path) -> RowScores:
    said = zip(chain.rows, read_outputs(outputs), strict=True)
    of_main = [(row.targets, output.text) for row, output in said if row.set == chain.recipe.main.name]
    return score_rows([targets for targets, _ in of_main], [text for _, text in of_main])


def _ablated(metrics: Sequence[str], before: RowScores, after: RowScores, log: Path) -> Ablated:
    last = read_log(log)[-1]
    return Ablated(
        scores={metric: interval(after, metric) for metric in metrics},
        changes={metric: paired_change(before, after, metric) for metric in metrics},
        valid_loss=last["valid_loss"],
        wrong_source_loss=last["wrong_source_loss"],
    )
