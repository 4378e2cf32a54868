"""P(good) of an answer: its features, the rule for the start, and the bundle's calibration."""

import dataclasses
import math
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rouge_score import rouge_scorer

import edge_s2s
from bundle_extensions import with_extensions
from edge_s2s import BundleError, Generation, GenerationOptions, Seq2SeqModel
from edge_s2s.confidence import (
    DRAW,
    DRAW_SEED,
    DRAWN_FEATURES,
    FEATURES,
    Calibration,
    doubts,
    features,
)
from edge_s2s.decoder import DecoderSession
from edge_s2s.faithfulness import Findings, check
from edge_s2s.worker import run_to_end

SOURCE = "Anna: I pay 30 dollars for the red book.\nBen: Fine."


def answer(
    model: Seq2SeqModel, text: str, logprobs: tuple[float, ...], finish_reason: str = "eos"
) -> Generation:
    """A real result with other words."""
    [[generation]] = model.generate([SOURCE])
    return dataclasses.replace(
        generation, text=text, token_logprobs=logprobs, finish_reason=finish_reason  # type: ignore[arg-type]
    )  # fmt: skip


def values(generation: Generation) -> dict[str, float]:
    found = features(generation, check(generation.text, SOURCE), SOURCE)
    assert found is not None
    return found


def calibration(**changes: object) -> Calibration:
    fields: dict[str, object] = {
        "good": "ROUGE-L >= 0.30",
        "n_documents": 250,
        "features": ("logprob_mean", "n_new_numbers"),
        "mean": (-0.5, 0.25),
        "scale": (0.5, 2.0),
        "weights": (1.5, -3.0),
        "bias": 0.25,
        "slope": 1.25,
        "offset": -0.5,
        "threshold": 0.3,
    }
    return Calibration(**fields | changes)  # type: ignore[arg-type]


def test_features_are_what_they_are_called(model: Seq2SeqModel):
    logprobs = (-0.1, -3.5, -0.2, -2.4, -0.3, -0.4, -0.5, -0.6, -0.7, -0.8, -0.9)
    found = values(answer(model, "Anna pays 31 dollars for the red Peter.", logprobs, "length"))
    assert tuple(found) == FEATURES
    assert found["logprob_mean"] == pytest.approx(np.mean(logprobs))
    assert found["logprob_min"] == -3.5
    for name, q in (("logprob_q10", 0.1), ("logprob_q25", 0.25), ("logprob_q50", 0.5)):
        assert found[name] == np.quantile(logprobs, q, method="lower")
    assert (found["n_below_0.1"], found["n_below_0.05"]) == (2, 1)
    assert found["log_tokens"] == pytest.approx(math.log(11))
    assert (found["n_new_numbers"], found["n_new_names"]) == (1, 1)
    assert found["copied_words"] == 5 / 8  # not pays, 31, Peter
    assert found["copied_pairs"] == 3 / 7  # dollars for, for the, the red
    assert (found["is_loop"], found["is_complete"], found["is_repaired"]) == (0, 0, 0)


def test_a_text_that_was_not_decoded_has_no_features(model: Seq2SeqModel):
    assert features(answer(model, "Anna pays.", ()), Findings(), SOURCE) is None


@pytest.mark.parametrize(
    ("text", "logprobs", "finish_reason", "expected"),
    [
        ("Anna pays 30.", (-0.9,) * 4, "eos", []),
        ("Anna pays 30.", (-1.1,) * 4, "eos", ["low_probability"]),
        ("Anna pays 30.", (-0.1, -0.1, -3.1, -0.1), "eos", []),
        ("Anna pays 30.", (-0.1, -0.1, -3.1, -3.0) + (0.0,) * 4, "eos", ["unlikely_tokens"]),
        ("Anna pays 31.", (-0.1,), "eos", ["new_number"]),
        ("Soon Peter pays 30.", (-0.1,), "eos", ["new_name"]),
        ("no no no no", (-0.1,), "length", ["loop", "incomplete"]),
    ],
)
def test_the_rule_for_the_start(
    model: Seq2SeqModel, text: str, logprobs: tuple[float, ...], finish_reason: str, expected: list[str]
):
    assert doubts(values(answer(model, text, logprobs, finish_reason))) == expected


def test_a_calibration_is_a_logistic_regression_and_platts_scaling(model: Seq2SeqModel):
    found = values(answer(model, "Anna pays 31.", (-1.0, -0.5)))
    logit = 1.5 * (-0.75 + 0.5) / 0.5 - 3 * (1 - 0.25) / 2 + 0.25
    assert calibration().p_good(found) == pytest.approx(1 / (1 + math.exp(-(1.25 * logit - 0.5))))


def test_a_far_value_is_certain_and_no_overflow(model: Seq2SeqModel):
    found = values(answer(model, "Anna pays.", (-1e30,)))
    assert calibration().p_good(found) == pytest.approx(0)
    assert calibration(weights=(-1.5, 0.0)).p_good(found) == pytest.approx(1)


def test_results_have_the_confidence_of_their_bundle(tiny_bundle: Path, tmp_path: Path):
    ours = calibration()
    path = with_extensions(tiny_bundle, tmp_path / "calibrated.es2s", **ours.to_extension())
    options = GenerationOptions(num_beams=2, num_return_sequences=2)
    with edge_s2s.load(path, num_threads=1) as opened:
        assert Calibration.of(opened.manifest) == ours
        [results] = opened.generate([SOURCE], options)
        for result in results:
            found = features(result, check(result.text, SOURCE), SOURCE)
            assert found is not None
            assert result.confidence == ours.p_good(found)
        assert opened.summarize(SOURCE).confidence is not None
        assert run_to_end(opened.stream(SOURCE, options)).confidence == results[0].confidence
        assert opened.summarize("word. " * 2000).confidence is None  # sentences of several outputs


def careful() -> Calibration:
    return calibration(features=("logprob_mean", "draws_alike"), bias=0.75, n_draws=3)


def test_features_of_draws_are_what_they_are_called(model: Seq2SeqModel):
    said = dataclasses.replace(
        answer(model, "Anna pays for the red book.", (-0.1,)),
        draws=("Anna pays for the red book.", "Ben pays.", "the book"),
    )
    found = values(said)
    assert tuple(found) == (*FEATURES, *DRAWN_FEATURES)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    rouges = [scorer.score(said.text, draw)["rougeL"].fmeasure for draw in said.draws]
    assert found["draws_agree"] == pytest.approx(np.mean(rouges))
    assert found["draws_alike"] == pytest.approx(np.mean([1 / 7, 2 / 6, 0 / 4]))


def test_careful_draws_what_generate_would_and_changes_no_result(tiny_bundle: Path, tmp_path: Path):
    extensions = calibration().to_extension() | careful().to_extension()
    path = with_extensions(tiny_bundle, tmp_path / "careful.es2s", **extensions)
    texts = [SOURCE, "Cleo: The train is late."]
    as_drawn = GenerationOptions(**DRAW, num_return_sequences=3, seed=DRAW_SEED)
    with edge_s2s.load(path, num_threads=1) as opened:
        plain = opened.generate(texts, GenerationOptions(num_beams=2))
        for options in (GenerationOptions(num_beams=2, careful=True), GenerationOptions(careful=True)):
            results = opened.generate(texts, options)
            for [result], [known], draws, text in zip(
                results, plain, opened.generate(texts, as_drawn), texts, strict=True
            ):
                assert result.draws == tuple(draw.text for draw in draws)
                found = features(result, check(result.text, text), text)
                assert found is not None
                assert result.confidence == careful().p_good(found)
                if options.num_beams == 2:
                    assert (result.text, result.score) == (known.text, known.score)
                    assert result.confidence != known.confidence
        assert opened.generate(texts)[0][0].draws == ()
        streamed = run_to_end(opened.stream(SOURCE, GenerationOptions(num_beams=2, careful=True)))
        [[whole]] = opened.generate([SOURCE], GenerationOptions(num_beams=2, careful=True))
        assert (streamed.draws, streamed.confidence) == (whole.draws, whole.confidence)
        mended = opened.summarize(
            SOURCE, GenerationOptions(careful=True, checks=("loops", "names", "numbers"))
        )
        assert len(mended.draws) == 3
        assert opened.summarize("word. " * 2000, GenerationOptions(careful=True)).draws == ()


def test_without_time_or_with_rules_of_its_own_a_careful_call_has_the_free_confidence(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    extensions = calibration().to_extension() | careful().to_extension()
    path = with_extensions(tiny_bundle, tmp_path / "careful.es2s", **extensions)
    with edge_s2s.load(path, num_threads=1) as opened:
        [[plain]] = opened.generate([SOURCE])
        [[ruled]] = opened.generate(
            [SOURCE], GenerationOptions(careful=True), logits_processor=lambda _tokens, _scores: None
        )
        assert (ruled.draws, ruled.confidence) == ((), plain.confidence)
        [[timely]] = opened.generate([SOURCE], GenerationOptions(careful=True, deadline_ms=60_000))
        assert len(timely.draws) == 3
        search = DecoderSession.generate

        def slow(*args: Any, **kwargs: Any) -> Any:
            found = search(*args, **kwargs)
            time.sleep(0.5)
            return found

        monkeypatch.setattr(DecoderSession, "generate", slow)
        [[late]] = opened.generate([SOURCE], GenerationOptions(careful=True, deadline_ms=400))
        assert (late.text, late.draws, late.confidence) == (plain.text, (), plain.confidence)


def test_careful_without_a_calibration_for_it_draws_nothing(model: Seq2SeqModel):
    assert model.generate([SOURCE], GenerationOptions(careful=True))[0][0].draws == ()


@pytest.mark.parametrize(
    ("extension", "change", "message"),
    [
        ("careful_calibration", {"n_draws": 0}, "draws_alike"),
        ("careful_calibration", {"n_draws": 0, "features": ["logprob_mean", "log_tokens"]}, "n_draws"),
        ("careful_calibration", {"n_draws": 65}, "n_draws"),
        ("calibration", {"n_draws": 3}, "n_draws"),
        ("calibration", {"features": ["logprob_mean", "draws_agree"]}, "draws_agree"),
    ],
)
def test_draws_belong_to_a_careful_calibration_alone(
    tiny_bundle: Path, tmp_path: Path, extension: str, change: dict[str, object], message: str
):
    [given] = (careful() if extension.startswith("careful") else calibration()).to_extension().values()
    path = with_extensions(tiny_bundle, tmp_path / "wrong.es2s", **{extension: given | change})  # type: ignore[operator]
    with pytest.raises(BundleError, match=message):
        edge_s2s.load(path)


def test_without_a_calibration_there_is_no_confidence(model: Seq2SeqModel):
    assert model.generate([SOURCE])[0][0].confidence is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": ["logprob_mean", "luck"]}, "luck"),
        ({"mean": [0.0]}, "mean"),
        ({"scale": [0.5, 0.0]}, "scale"),
        ({"scale": [0.5, -1.0]}, "scale"),
        ({"weights": [1.0, 1e7]}, "1e"),
        ({"bias": 1}, "bias"),
        ({"threshold": 1.5}, "threshold"),
        ({"n_documents": "many"}, "n_documents"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_wrong_calibration_is_refused(
    tiny_bundle: Path, tmp_path: Path, change: dict[str, object], message: str
):
    given = calibration().to_extension()["calibration"] | change  # type: ignore[operator]
    path = with_extensions(tiny_bundle, tmp_path / "wrong.es2s", calibration=given)
    with pytest.raises(BundleError, match=message) as error:
        edge_s2s.load(path)
    assert "extensions.calibration" in str(error.value)


def test_a_calibration_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(calibration())) == calibration()
