from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_s2s import Generation, GenerationStats, Seq2SeqModel
from edge_s2s.confidence import Calibration
from edge_s2s.faithfulness import check
from edge_s2s.hybrid.policy import Policy, reasons_after, reasons_before

SOURCE = "Ann: Shall we meet at six?\nBob: At seven, please."
STATS = GenerationStats(
    source_tokens=20, encoder_ms=1, decoder_ms=1, isa="scalar", num_threads=1, providers=()
)
GOOD = Generation(
    text="Bob asks to meet at seven.", token_ids=(3, 4, 5, 1), score=-0.1, token_logprobs=(-0.1,) * 4,
    finish_reason="eos", stats=STATS,
)  # fmt: skip
CALIBRATION = Calibration(
    good="ROUGE-L >= 0.30", n_documents=250, features=("logprob_mean",), mean=(0.0,), scale=(1.0,),
    weights=(1.0,), bias=0.0, slope=1.0, offset=0.0, threshold=0.4,
)  # fmt: skip


CAREFUL = replace(CALIBRATION, features=("draws_agree",), threshold=0.6, n_draws=2)


def after(draft: Generation, policy: Policy | None = None, *calibrations: Calibration) -> list[str]:
    extensions: dict[str, object] = {}
    for calibration in calibrations:
        extensions |= calibration.to_extension()
    manifest: Any = SimpleNamespace(extensions=extensions)
    return reasons_after(policy or Policy(), manifest, draft, check(draft.text, SOURCE), SOURCE)


def test_a_good_draft_stays_on_the_device():
    assert after(GOOD) == []


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({"token_logprobs": (-1.1,) * 4}, ["low_probability"]),
        ({"token_logprobs": (-0.1, -3.1, -3.1, -0.1, -0.1, -0.1, -0.1)}, ["unlikely_tokens"]),
        ({"text": "Bob asks to meet at nine."}, ["new_number"]),
        ({"text": "Bob asks Clara to meet at seven."}, ["new_name"]),
        ({"finish_reason": "length"}, ["incomplete"]),
        ({"reasons": ("number", "ask_cloud")}, ["ask_cloud"]),
        ({"stats": replace(STATS, n_chunks=5), "token_logprobs": ()}, ["long"]),
        ({"token_logprobs": (), "finish_reason": "deadline"}, ["incomplete"]),
    ],
)
def test_without_a_calibration_each_doubt_is_a_reason(change: dict[str, object], reasons: list[str]):
    assert after(replace(GOOD, **change)) == reasons  # type: ignore[arg-type]


def test_with_a_calibration_its_threshold_decides_alone_unless_the_policy_has_one():
    unlikely = {"token_logprobs": (-2.0,) * 4}
    low = ["low_confidence"]
    assert after(replace(GOOD, confidence=0.41, **unlikely), None, CALIBRATION) == []  # type: ignore[arg-type]
    assert after(replace(GOOD, confidence=0.39), None, CALIBRATION) == low
    assert after(replace(GOOD, confidence=0.39), Policy(min_confidence=0.3), CALIBRATION) == []
    assert after(replace(GOOD, confidence=0.9), Policy(min_confidence=0.95), CALIBRATION) == low


def test_the_threshold_is_that_of_the_calibration_that_judged():
    both = CALIBRATION, CAREFUL
    for draws, confidence, reasons in (
        ((), 0.5, []),
        ((), 0.3, ["low_confidence"]),
        (("A draw.", "Another."), 0.7, []),
        (("A draw.", "Another."), 0.5, ["low_confidence"]),
    ):
        assert after(replace(GOOD, confidence=confidence, draws=draws), None, *both) == reasons


def test_another_task_and_an_unknown_language_are_for_the_cloud(model: Seq2SeqModel):
    manifest, unknown = model.manifest, model.manifest.special_tokens.unk
    assert unknown is not None
    assert reasons_before(Policy(task=manifest.task), manifest, [5] * 10) == []
    assert reasons_before(Policy(task="poetry"), manifest, [5] * 10) == ["task"]
    assert reasons_before(Policy(), manifest, [5] * 8 + [unknown] * 2) == []
    assert reasons_before(Policy(), manifest, [5] * 7 + [unknown] * 3) == ["language"]


def test_by_default_nothing_leaves_the_device():
    assert Policy().privacy == "never"
    assert Policy().mode == "prefer_on_device"


def test_a_policy_is_read_from_a_file_or_is_the_default(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('[policy]\nmode = "prefer_in_cloud"\nprivacy = "redacted"\ndeny_list = ["Heron"]\n')
    assert Policy.from_toml(file) == Policy(mode="prefer_in_cloud", privacy="redacted", deny_list=["Heron"])
    file.write_text("")
    assert Policy.from_toml(file) == Policy()


@pytest.mark.parametrize(
    "wrong", [{"mode": "auto"}, {"privacy": "yes"}, {"deny_list": "Heron"}, {"deny_list": [" "]}]
)
def test_a_wrong_policy_is_refused_by_its_name(wrong: dict[str, object]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Policy(**wrong)  # type: ignore[arg-type]
