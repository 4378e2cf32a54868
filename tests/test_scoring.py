"""Scores of given targets against what generated them, and against transformers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

import edge_s2s
from edge_s2s import GenerationOptions, Seq2SeqModel
from edge_s2s.decoder import DecoderModel, supported_isas
from edge_s2s_export.probe_texts import probe_texts
from tiny_models import ALL_KINDS, random_hf, random_model

TEXTS = probe_texts(8)


@pytest.fixture(scope="module")
def default() -> Iterator[Seq2SeqModel]:
    """The bundle that ships with the package."""
    with edge_s2s.load(num_threads=2) as opened:
        yield opened


@pytest.mark.parametrize("num_beams", [1, 4])
def test_what_was_generated_has_the_bits_it_was_generated_with(
    default: Seq2SeqModel, model: Seq2SeqModel, num_beams: int
):
    for opened in (default, model):
        options = GenerationOptions(num_beams=num_beams, max_new_tokens=12)
        generated = [best for [best] in opened.generate(TEXTS, options)]
        scores = opened.score(TEXTS, [best.token_ids for best in generated], num_alternatives=1)
        assert [s.token_logprobs for s in scores] == [best.token_logprobs for best in generated]
        assert [s.token_ids for s in scores] == [best.token_ids for best in generated]


def test_a_target_has_the_same_score_alone_as_beside_longer_ones(default: Seq2SeqModel):
    targets = ["Yes.", "They talk about the weather of tomorrow and of next week.", "No", "One two three."]
    together = default.score(TEXTS[:4], targets, num_alternatives=2, batch_size=4)
    alone = [default.score([a], [b], num_alternatives=2)[0] for a, b in zip(TEXTS, targets, strict=False)]
    assert together == alone
    assert default.score(TEXTS[:4], targets, num_alternatives=2, batch_size=3) == together


def test_logprobs_and_alternatives_are_those_of_transformers(float_model: Seq2SeqModel, tiny_folder: Path):
    hf = AutoModelForSeq2SeqLM.from_pretrained(tiny_folder, attn_implementation="eager").eval()
    targets = [[9, 30, 12, 1], [40, 5], [7] * 9]
    scores = float_model.score(TEXTS[:3], targets, num_alternatives=5, output_attentions=True)
    for text, target, score in zip(TEXTS, targets, scores, strict=False):
        inputs = torch.tensor([[hf.config.decoder_start_token_id, *target[:-1]]])
        with torch.no_grad():
            out = hf(
                input_ids=torch.tensor([float_model.encode(text)]),
                decoder_input_ids=inputs,
                output_attentions=True,
            )
        logprobs = out.logits[0].log_softmax(dim=-1)
        expected = logprobs[range(len(target)), target].numpy()
        # float32 on both sides; ONNX Runtime's encoder adds up in another order
        np.testing.assert_allclose(score.token_logprobs, expected, atol=1e-3)
        np.testing.assert_allclose(score.score, expected.mean(), atol=1e-3)
        best = logprobs.topk(5)
        found = np.array([[a.logprob for a in step] for step in score.alternatives])
        np.testing.assert_allclose(found, best.values.numpy(), atol=1e-3)
        assert [[a.token_id for a in step] for step in score.alternatives] == best.indices.tolist()
        attentions = torch.cat(out.cross_attentions).numpy()
        assert score.cross_attentions is not None
        np.testing.assert_allclose(score.cross_attentions, attentions, atol=1e-4)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_cross_attention_is_that_of_transformers(kind: str):
    """1e-4: float32 sums in another order, through a softmax that is sharp in these models."""
    model = random_model(kind, 3)
    hf = random_hf(kind, 3)
    hf.set_attn_implementation("eager")
    source, target = model.plain_tokens[5:25], model.plain_tokens[7:12]
    inputs = [hf.config.decoder_start_token_id, *target]
    with torch.no_grad():
        out = hf(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([inputs]), output_attentions=True
        )
    expected = torch.cat(out.cross_attentions).numpy()  # [n_layers, n_heads, len(inputs), len(source)]
    assert expected.max() > 0.5, "not all the same"
    with model.decoder.session(1, 1, len(source), len(inputs), keep_cross_attention=True) as session:
        session.set_source(0, model.cross_kv(source))
        for step, token in enumerate(inputs):
            session.step([token])
            np.testing.assert_allclose(session.cross_attention(0), expected[:, :, step], atol=1e-4)


def test_attention_has_the_same_bits_with_every_kernel_set_and_thread_count(tiny_bundle: Path):
    found = []
    for isa in supported_isas():
        for num_threads in (1, 2):
            with edge_s2s.load(tiny_bundle, num_threads=num_threads, isa=isa) as opened:
                decoder: DecoderModel = opened._parts.decoder
                dims = decoder.dims
                shape = (dims.n_layers, 2, dims.n_heads, 30, dims.d_head)
                cross_kv = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
                with decoder.session(1, 1, 30, 5, keep_cross_attention=True) as session:
                    session.set_source(0, cross_kv)
                    for token in (0, 9, 8):
                        session.step([token])
                    found.append(session.cross_attention(0).tobytes())
    assert len(set(found)) == 1


def test_alternatives_have_texts_and_are_not_asked_for_by_default(default: Seq2SeqModel):
    [score] = default.score([TEXTS[0]], ["Anna is here."], num_alternatives=3)
    assert len(score.alternatives) == len(score.token_ids)
    for step in score.alternatives:
        logprobs = [alternative.logprob for alternative in step]
        assert logprobs == sorted(logprobs, reverse=True)
        assert sum(np.exp(logprobs)) <= 1
    assert any(alternative.text.strip() for step in score.alternatives for alternative in step)
    [plain] = default.score([TEXTS[0]], ["Anna is here."])
    assert (plain.alternatives, plain.cross_attentions) == ((), None)
    assert plain.token_logprobs == score.token_logprobs
    assert plain.token_ids[-1] == default.manifest.special_tokens.eos


def test_a_likelier_target_has_a_higher_score(default: Seq2SeqModel):
    [[best]] = default.generate([TEXTS[0]])
    good, bad = default.score([TEXTS[0]] * 2, [best.text, "Purple seven under to to the."])
    assert good.score > bad.score


@pytest.mark.parametrize(
    ("texts", "targets", "message"),
    [
        ("a", ["b"], r"texts: expected a list, found str; write score\(\[text\], \[target\]\)"),
        (["a"], "b", "targets: expected a list, found str"),
        (["a", "b"], ["c"], "targets: expected one for each of 2 texts, found 1"),
        (["a"], [[]], r"targets\[0\] has no token ids"),
        (["a"], [[5, 1, 5]], r"targets\[0\]: expected EOS at the end only, found it at 1"),
        (["a"], [[5_000_000]], r"targets\[0\]: expected token ids in"),
        (["a"], [[5] * 100_000], r"targets\[0\] has 100000 tokens, but this model generates at most"),
        ([" "], ["a"], r"texts\[0\] is blank"),
    ],
)
def test_wrong_arguments_are_refused(model: Seq2SeqModel, texts: object, targets: object, message: str):
    with pytest.raises((TypeError, ValueError), match=message):
        model.score(texts, targets)  # type: ignore[arg-type]
