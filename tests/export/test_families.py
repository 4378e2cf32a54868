"""What every family must do: our tensors, run by the numpy decoder, against transformers, to 1e-4."""

import copy

import numpy as np
import pytest
import torch
from transformers import PegasusXConfig, T5Config

from edge_s2s.weights import expected_tensors, read_weights, write_weights
from edge_s2s_export import families
from edge_s2s_export.errors import ExportError
from edge_s2s_export.reference_decoder import ReferenceDecoder
from tiny_models import ALL_KINDS, KINDS, random_hf

OTHER_KINDS = [kind for kind in ALL_KINDS if kind not in KINDS]  # T5's have tests of their own
BART_KINDS = [kind for kind in OTHER_KINDS if "t5" not in kind]


def random_ids(seed: int, n: int) -> list[int]:
    """Tokens that are special in no kind."""
    return np.random.default_rng(seed).integers(3, 60, n).tolist()


@torch.no_grad()
def hf_logits(hf, source: list[int], target: list[int]) -> np.ndarray:
    return hf(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0].numpy()


def our_logits(spec, source: list[int], target: list[int]) -> np.ndarray:
    weights = read_weights(write_weights(spec.keys, spec.tensors))
    return ReferenceDecoder(weights, spec.cross_kv(source)).feed(target)


def assert_same_logits(hf, spec, seed: int, n_target: int = 40) -> None:
    source = random_ids(seed, 3 + 20 * seed)
    target = [int(spec.keys["decoder_start_token_id"]), *random_ids(seed + 9, n_target - 1)]
    expected = hf_logits(hf, source, target)
    assert expected.std() > 0.3
    found = our_logits(spec, source, target)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_every_family_has_a_kind_here():
    assert {families.family_of(random_hf(kind, 0).config) for kind in ALL_KINDS} == set(families.FAMILIES)


@pytest.mark.parametrize("kind", [kind for kind in OTHER_KINDS if kind not in BART_KINDS])
def test_logits_equal_transformers(kind: str):
    for seed in range(3):
        hf = random_hf(kind, seed)
        assert_same_logits(hf, families.describe(hf), seed)


@pytest.mark.parametrize("kind", [kind for kind in OTHER_KINDS if kind not in BART_KINDS])
def test_tensors_are_exactly_those_that_the_keys_call_for(kind: str):
    spec = families.describe(random_hf(kind, 0))
    assert spec.tensors.keys() == expected_tensors(spec.keys).keys()
    assert all(tensor.dtype == np.float32 and tensor.flags.c_contiguous for tensor in spec.tensors.values())


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_cross_kv_is_what_transformers_caches(kind: str):
    """Of input ids there, of stored embedding rows here: scale, positions and norms are in the graph."""
    hf = random_hf(kind, 2)
    source = random_ids(3, 13)
    with torch.no_grad():
        start = torch.tensor([[hf.config.decoder_start_token_id]])
        cache = hf(input_ids=torch.tensor([source]), decoder_input_ids=start).past_key_values
    for layer, (k, v) in enumerate(families.describe(hf).cross_kv(source)):
        cached = cache.cross_attention_cache.layers[layer]
        np.testing.assert_array_equal(k, cached.keys[0].numpy())
        np.testing.assert_array_equal(v, cached.values[0].numpy())


@pytest.mark.parametrize("kind", ["umt5", "byt5", "bart", "marian-separate", "m2m100"])
def test_describing_leaves_the_model_alone(kind: str):
    hf = random_hf(kind, 0)
    before = copy.deepcopy(hf)
    families.describe(hf)
    assert hf.config.to_dict() == before.config.to_dict()
    assert all(torch.equal(a, b) for a, b in zip(hf.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["bart", "marian", "pegasus"])
def test_a_logits_bias_of_zeros_is_not_stored(kind: str):
    hf = random_hf(kind, 0)
    assert "final_logits_bias" in families.describe(hf).tensors
    hf.final_logits_bias.zero_()
    assert "final_logits_bias" not in families.describe(hf).tensors


def test_byt5_is_a_t5_with_another_tokenizer():
    assert families.family_of(T5Config(tokenizer_class="ByT5Tokenizer")) == "byt5"
    assert families.family_of(T5Config(tokenizer_class="T5Tokenizer")) == "t5"


def test_an_unknown_family_is_refused_with_the_known_ones():
    with pytest.raises(ExportError, match=r"'pegasus_x' is unknown; known: bart, byt5, m2m_100, marian"):
        families.family_of(PegasusXConfig())


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_an_unknown_activation_is_refused_with_the_known_ones(kind: str):
    hf = random_hf(kind, 0)
    hf.config.dense_act_fn = hf.config.activation_function = "mish"
    with pytest.raises(ExportError, match=r"'mish' is unknown; known: relu, gelu"):
        families.describe(hf)
