"""Every limit of a recipe refuses what is just beyond it, and agreement is what two models say."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import edge_s2s
from edge_s2s_export.factory.evaluation import Faithfulness, RowScores
from edge_s2s_export.factory.recipe import Gates, load_recipe
from edge_s2s_export.factory.slots import SlotErrors
from edge_s2s_export.factory.task_gates import Agreement, Gate, Measured, agreement, failures, gates
from edge_s2s_export.probe_texts import probe_texts

N = 50
PERFECT = Agreement(n_tokens=100, argmax=1.0, mean_kl=0.0, high_kl=0.0, sequences=1.0, identical=1.0)
FAITHFUL = Faithfulness(1.0, 0.0, 1.0, 0.0, 0.0)


def scores(points: float) -> RowScores:
    rouge = {name: np.full(N, points) for name in ("rouge1", "rouge2", "rougeL")}
    return RowScores(np.ones((N, 10)), rouge, rouge)


GOOD = Measured(
    size_bytes=1_000_000,
    agreement=PERFECT,
    teacher=scores(50),
    float32=scores(50),
    int8=scores(50),
    faithfulness=FAITHFUL,
    names=0.9,
    slots=SlotErrors(100, 0),
)
RECIPE = dataclasses.replace(
    load_recipe("tiny"),
    metrics=("rouge2",),
    gates=Gates(
        max_size_mb=2, max_slot_error=0.02, max_teacher_loss=1, min_names=0.8, min_scores={"rouge1": 45}
    ),
)


def failing(**changes: object) -> set[str]:
    return {*failures(gates(RECIPE, dataclasses.replace(GOOD, **changes)))}


def test_what_is_within_all_limits_passes():
    assert failing() == set()
    assert len(gates(RECIPE, GOOD)) == 13


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"size_bytes": 2_000_001}, {"size in MB"}),
        ({"agreement": dataclasses.replace(PERFECT, argmax=0.984)}, {"argmax agreement"}),
        ({"agreement": dataclasses.replace(PERFECT, mean_kl=0.011)}, {"mean KL"}),
        ({"agreement": dataclasses.replace(PERFECT, sequences=0.84)}, {"sequence agreement"}),
        ({"float32": scores(50.4)}, {"int8 loss, rouge2"}),
        ({"float32": scores(50.6)}, {"int8 loss, rouge2", "int8 loss, upper bound, rouge2"}),
        ({"teacher": scores(51.1)}, {"loss to the teacher, rouge2"}),
        ({name: scores(44.9) for name in ("teacher", "float32", "int8")}, {"rouge1"}),
        ({"faithfulness": dataclasses.replace(FAITHFUL, unsupported_names=0.04)}, {"unsupported names"}),
        ({"faithfulness": dataclasses.replace(FAITHFUL, unsupported_numbers=0.04)}, {"unsupported numbers"}),
        ({"faithfulness": dataclasses.replace(FAITHFUL, loops=0.01)}, {"loops"}),
        ({"names": 0.79}, {"names, share of the references'"}),
        ({"slots": SlotErrors(100, 3)}, {"slot errors"}),
        ({"agreement": dataclasses.replace(PERFECT, mean_kl=float("nan"))}, {"mean KL"}),
    ],
)
def test_each_limit_refuses_what_is_beyond_it(changes: dict[str, object], names: set[str]):
    assert failing(**changes) == names


def test_a_noisy_loss_is_refused_by_its_bound():
    """No loss on the mean, but rows differ so much that one of half a point cannot be excluded."""
    noise = np.tile([-5.0, 5.0], N // 2)
    rouge = dict.fromkeys(("rouge1", "rouge2", "rougeL"), 50 + noise)
    assert failing(int8=RowScores(np.ones((N, 10)), rouge, rouge)) == {"int8 loss, upper bound, rouge2"}


def test_without_meaning_representations_there_is_no_gate_of_slots():
    assert "slot errors" not in {gate.name for gate in gates(RECIPE, dataclasses.replace(GOOD, slots=None))}


def test_a_refusal_says_limit_and_value():
    assert str(Gate("loops", 0.25, 0.1, is_least=False)) == "loops: expected at most 0.1, found 0.25"
    assert str(Gate("bleu", 5, 66, is_least=True)) == "bleu: expected at least 66, found 5"


def test_a_bundle_agrees_with_itself_and_int8_nearly_with_float32(tiny_bundle: Path, tiny_float_bundle: Path):
    with edge_s2s.load(tiny_float_bundle) as model:
        sources = [model.encode(text) for text in probe_texts(12)]
        outputs = [best.token_ids for [best] in model.generate(sources)]
    same = agreement(str(tiny_float_bundle), str(tiny_float_bundle), sources, outputs, outputs)
    assert (same.argmax, same.mean_kl, same.sequences, same.identical) == (1, 0, 1, 1)
    assert same.n_tokens == sum(map(len, outputs))
    other = agreement(
        str(tiny_float_bundle), str(tiny_bundle), sources, outputs, [ids[1:] for ids in outputs]
    )
    assert 0.9 < other.argmax <= 1
    assert 0 < other.mean_kl < 0.05
    assert other.identical == 0
    assert 0.5 < other.sequences < 1
