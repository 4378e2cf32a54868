"""Every part of a recipe's distillation is switched once, and measured against the recipe."""

import dataclasses
import json
from pathlib import Path

import pytest

from edge_s2s_export import cli
from edge_s2s_export.errors import ExportError
from edge_s2s_export.factory.ablation import AS_IT_IS, FILE, TABLE, Ablated, table, variants
from edge_s2s_export.factory.evaluation import Interval
from edge_s2s_export.factory.recipe import load_recipe

TINY = load_recipe("tiny")


def test_each_variant_differs_from_the_recipe_in_one_part():
    found = variants(TINY)
    assert found.pop(AS_IT_IS) is TINY
    assert [*found] == [
        "labels alone", "logits alone", "temperature 1", "with hidden states", "a fifth on policy",
        "new weights", "without pseudo-labels", "pseudo-labels alone",
    ]  # fmt: skip
    assert TINY.student
    for variant in found.values():
        assert variant.student
        parts = [
            variant.pseudo_labels != TINY.pseudo_labels,
            variant.student.init != TINY.student.init,
            variant.student.distillation != TINY.student.distillation,
        ]
        assert sum(parts) == 1
        assert dataclasses.replace(variant, student=None, pseudo_labels=None) == dataclasses.replace(
            TINY, student=None, pseudo_labels=None
        )


def test_what_a_recipe_has_is_switched_off():
    assert TINY.student
    loss = dataclasses.replace(TINY.student.distillation, hidden_weight=0.5, on_policy_share=0.1)
    student = dataclasses.replace(TINY.student, distillation=loss)
    found = variants(dataclasses.replace(TINY, student=student, pseudo_labels=None))
    for name, key in (("without hidden states", "hidden_weight"), ("never on policy", "on_policy_share")):
        assert (changed := found[name].student)
        assert changed.distillation == dataclasses.replace(loss, **{key: 0.0})
    assert not {"with hidden states", "a fifth on policy", "without pseudo-labels"} & found.keys()
    with pytest.raises(ExportError, match="expected a recipe with a student"):
        variants(load_recipe("dialogue-summary-en"))


def test_a_table_tells_scores_changes_and_losses():
    scores = {metric: Interval(20.04, 18.0, 22.0) for metric in TINY.metrics}
    changes = {metric: Interval(-1.0, -2.0, 0.25) for metric in TINY.metrics}
    ablated = {
        AS_IT_IS: Ablated(scores, changes, 1.5, 3.0),
        "new weights": Ablated(scores, changes, 2.5, 2.6),
    }
    *_, recipe, new = table(TINY, ablated).splitlines()
    assert recipe == "| as the recipe | 20.0 (18.0 to 22.0) |  | 20.0 (18.0 to 22.0) |  | 1.50 | 3.00 |"
    assert new.startswith("| new weights | 20.0 (18.0 to 22.0) | -1.0 (-2.0 to +0.2) |")


@pytest.mark.release
@pytest.mark.timeout(3600)
def test_the_command_trains_and_measures_every_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["ablate", "--recipe", "tiny", "--work", str(tmp_path), "--steps", "5"]) == 0
    printed = capsys.readouterr().out
    [folder] = tmp_path.glob("ablation-*")
    measured = json.loads((folder / FILE).read_text())
    assert measured.keys() == variants(TINY).keys()
    assert printed == (folder / TABLE).read_text()
    assert len({one["valid_loss"] for one in measured.values()}) == len(measured)
    assert set(measured[AS_IT_IS]["changes"]["bleu"]) == {0.0}
