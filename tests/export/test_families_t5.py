"""Our tensors, run by the numpy decoder, against transformers: to 1e-4, 50 times float32's rounding."""

import copy

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, T5ForConditionalGeneration

from edge_s2s.weights import expected_tensors, read_weights, write_weights
from edge_s2s_export.errors import ExportError
from edge_s2s_export.families import t5
from edge_s2s_export.generation_defaults import generation_defaults
from edge_s2s_export.reference_decoder import ReferenceDecoder
from tiny_models import EOS, KINDS, START, random_t5

ACTIVATIONS = [
    "relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "silu", "gated-relu", "gated-gelu", "gated-silu",
]  # fmt: skip


@torch.no_grad()
def hf_logits(hf: T5ForConditionalGeneration, source: list[int], target: list[int]) -> np.ndarray:
    return hf(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0].numpy()


def ours(model, source: list[int]) -> ReferenceDecoder:
    weights = read_weights(write_weights(model.spec.keys, model.spec.tensors))
    return ReferenceDecoder(weights, model.cross_kv(source))


def random_ids(seed: int, n: int) -> list[int]:
    return np.random.default_rng(seed).integers(2, 64, n).tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_logits_equal_transformers(kind: str, seed: int):
    model = random_t5(kind, seed)
    source, target = random_ids(seed, 3 + 20 * seed), [START, *random_ids(seed + 9, 40)]
    expected = hf_logits(model.hf, source, target)
    assert expected.std() > 0.3
    np.testing.assert_allclose(ours(model, source).feed(target), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_activation_equals_transformers(activation: str, tied: bool):
    model = random_t5("t5", 5, feed_forward_proj=activation, tie_word_embeddings=tied)
    source, target = random_ids(1, 11), [START, *random_ids(2, 12)]
    expected = hf_logits(model.hf, source, target)
    np.testing.assert_allclose(ours(model, source).feed(target), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (16, 64)])
def test_position_bias_holds_far_beyond_the_last_bucket(num_buckets: int, max_distance: int):
    buckets = {
        "relative_attention_num_buckets": num_buckets,
        "relative_attention_max_distance": max_distance,
    }
    model = random_t5("t5", 3, **buckets)
    table = model.spec.tensors["position_bias"]
    attention = model.hf.decoder.block[0].layer[0].SelfAttention
    expected = (
        attention.compute_bias(600, 600)[0, :, -1].detach().numpy()[:, ::-1]
    )  # of distances 0, 1, ... 599
    ours_by_distance = table[:, np.minimum(np.arange(600), table.shape[1] - 1)]
    np.testing.assert_array_equal(ours_by_distance, expected)


def test_logits_hold_at_distances_beyond_the_last_bucket():
    model = random_t5("t5-v1.1", 4)
    source, target = random_ids(1, 5), [START, *random_ids(2, 299)]
    expected = hf_logits(model.hf, source, target)
    np.testing.assert_allclose(ours(model, source).feed(target), expected, atol=1e-4 * np.abs(expected).max())


def test_stepping_equals_feeding_at_once():
    model = random_t5("t5-v1.1-tied", 6)
    target = [START, *random_ids(2, 20)]
    at_once = ours(model, [5, 6, 7]).feed(target)
    stepwise = ours(model, [5, 6, 7])
    np.testing.assert_allclose(
        np.concatenate([stepwise.feed([token]) for token in target]), at_once, atol=1e-5
    )


def test_hidden_states_equal_transformers():
    model = random_t5("t5-untied", 1)
    source, target = random_ids(1, 9), [START, *random_ids(2, 8)]
    with torch.no_grad():
        output = model.hf(
            input_ids=torch.tensor([source]),
            decoder_input_ids=torch.tensor([target]),
            output_hidden_states=True,
        )
    expected = [hidden[0].numpy() for hidden in output.decoder_hidden_states]  # its last one is normed
    decoder = ours(model, source)
    decoder.feed(target)
    found = [*decoder.hidden[: len(expected) - 1], decoder.hidden[-1]]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_exactly_those_that_the_keys_call_for(kind: str):
    spec = random_t5(kind, 0).spec
    assert spec.tensors.keys() == expected_tensors(spec.keys).keys()
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in spec.tensors.values())


def test_cross_kv_is_what_transformers_caches():
    model = random_t5("t5-v1.1", 2, num_decoder_layers=2)
    source = random_ids(3, 13)
    with torch.no_grad():
        cache = model.hf(
            input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[START]])
        ).past_key_values.cross_attention_cache
    for layer, (k, v) in enumerate(model.cross_kv(source)):
        np.testing.assert_array_equal(k, cache.layers[layer].keys[0].numpy())
        np.testing.assert_array_equal(v, cache.layers[layer].values[0].numpy())


def test_bfloat16_weights_become_the_same_float32_numbers():
    hf = random_t5("t5", 1).hf.to(torch.bfloat16)
    spec = t5.describe(hf)
    np.testing.assert_array_equal(spec.tensors["embedding.weight"], hf.shared.weight.detach().float().numpy())


def test_describing_leaves_the_model_alone():
    hf = random_t5("t5-v1.1-tied", 0).hf
    before = copy.deepcopy(hf)
    t5.describe(hf)
    assert hf.config.to_dict() == before.config.to_dict()
    assert all(torch.equal(a, b) for a, b in zip(hf.parameters(), before.parameters(), strict=True))


def test_a_missing_start_token_is_refused():
    hf = random_t5("t5", 0).hf
    hf.config.decoder_start_token_id = hf.generation_config.decoder_start_token_id = None
    with pytest.raises(ExportError, match="decoder_start_token_id"):
        t5.describe(hf)


def test_generation_settings_are_kept():
    config = GenerationConfig(
        num_beams=4, num_return_sequences=2, max_length=31, min_length=6, length_penalty=0.6,
        early_stopping=True, repetition_penalty=1.2, no_repeat_ngram_size=3, forced_bos_token_id=7,
        forced_eos_token_id=[EOS], bad_words_ids=[[5, 6]], suppress_tokens=[4], top_k=10,
    )  # fmt: skip
    defaults = generation_defaults(config, max_target_len=512)
    assert (defaults.max_new_tokens, defaults.min_new_tokens) == (30, 5)  # without the start token
    assert (defaults.num_beams, defaults.num_return_sequences, defaults.early_stopping) == (4, 2, True)
    assert (defaults.length_penalty, defaults.repetition_penalty) == (0.6, 1.2)
    assert (defaults.no_repeat_ngram_size, defaults.bad_words_ids) == (3, ((5, 6),))
    assert (defaults.forced_bos_token_id, defaults.forced_eos_token_id) == (7, EOS)
    assert defaults.suppress_tokens == (4,)


def test_settings_of_rules_that_are_usually_off_are_kept():
    config = GenerationConfig(
        begin_suppress_tokens=[3], encoder_repetition_penalty=1.5, encoder_no_repeat_ngram_size=2,
        exponential_decay_length_penalty=[5, 1.25], sequence_bias=[[[4, 5], -2.0], [[6], 1.0]],
    )  # fmt: skip
    defaults = generation_defaults(config, max_target_len=512)
    assert defaults.begin_suppress_tokens == (3,)
    assert (defaults.encoder_repetition_penalty, defaults.encoder_no_repeat_ngram_size) == (1.5, 2)
    assert defaults.exponential_decay_length_penalty == (5, 1.25)
    assert defaults.sequence_bias == (((4, 5), -2.0), ((6,), 1.0))


def test_a_setting_out_of_range_is_refused_with_its_name():
    config = GenerationConfig(encoder_repetition_penalty=-1.0)
    with pytest.raises(ExportError, match="encoder_repetition_penalty: expected a number"):
        generation_defaults(config, max_target_len=512)


def test_renormalize_logits_becomes_a_default():
    config = GenerationConfig(renormalize_logits=True)
    assert generation_defaults(config, max_target_len=512).renormalize_logits


def test_sampling_settings_become_defaults():
    config = GenerationConfig(do_sample=True, top_p=0.9, temperature=0.7)
    defaults = generation_defaults(config, max_target_len=512)
    assert (defaults.do_sample, defaults.top_p, defaults.temperature) == (True, 0.9, 0.7)
    assert defaults.top_k == config.top_k == 50


@pytest.mark.parametrize("setting", [{"token_healing": True}, {"remove_invalid_values": True}])
def test_generation_settings_that_a_bundle_cannot_express_are_refused(setting: dict[str, object]):
    with pytest.raises(ExportError, match=f"remove {next(iter(setting))}="):
        generation_defaults(GenerationConfig(**setting), max_target_len=512)
