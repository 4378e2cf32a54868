"""What every family must do: our tensors, run by the numpy decoder, against transformers, to 1e-4."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PegasusXConfig, T5Config

from edge_s2s.weights import expected_tensors, read_weights, write_weights
from edge_s2s_export import families
from edge_s2s_export.errors import ExportError
from edge_s2s_export.reference_decoder import ReferenceDecoder
from tiny_models import ALL_KINDS, KINDS, random_hf, random_model

README = Path(__file__).parent.parent.parent / "export" / "README.md"
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


def features(kind: str) -> tuple[str, ...]:
    """What the table in export/README.md says of a kind, but for activation and head."""
    hf = random_hf(kind, 0)
    keys = families.describe(hf).keys
    norms = [str(keys["norm"]).upper() if keys["norm"] == "rms" else "layer", str(keys["norm_position"])]
    embedding = ["scaled"] * (keys["embedding_scale"] != 1) + ["normed"] * int(keys["embedding_norm"])
    if keys["position"] == "table":
        is_learned = "bart" in hf.config.model_type
        position = "learned table" if is_learned else "sines"
    else:
        position = "relative bias, " + ("per layer" if keys["position_bias_per_layer"] else "shared")
    if hf.config.model_type == "marian":
        embedding.append("one table or two")
    return (
        ", ".join(norms + ["final"] * int(keys["final_norm"])),
        ", ".join(embedding) or "plain",
        position,
        "yes" if keys["final_logits_bias"] else "-",
    )


def test_the_readme_says_what_the_families_are():
    rows = {}
    for line in README.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[1].startswith(("RMS", "layer")):
            name, norm, embedding, position, _activation, _head, logits_bias = cells
            rows[name] = (norm, embedding, position, logits_bias)
    assert rows == {
        "T5, T5 v1.1, Flan-T5": features("t5"),
        "mT5": features("mt5"),
        "UMT5": features("umt5"),
        "ByT5": features("byt5"),
        "BART": features("bart"),
        "mBART": features("mbart"),
        "Pegasus": features("pegasus"),
        "Marian": features("marian"),
        "M2M100, NLLB": features("m2m100"),
    }


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_logits_equal_transformers(kind: str):
    for seed in range(3):
        hf = random_hf(kind, seed)
        assert_same_logits(hf, families.describe(hf), seed)


@pytest.mark.parametrize("kind", OTHER_KINDS)
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


@pytest.mark.parametrize("kind", BART_KINDS)
def test_the_last_position_of_the_table_is_the_last_of_transformers(kind: str):
    hf = random_hf(kind, 1, max_position_embeddings=24)
    spec = families.describe(hf)
    assert (spec.keys["max_source_len"], spec.keys["max_target_len"]) == (24, 24)
    assert_same_logits(hf, spec, seed=1, n_target=24)


@pytest.mark.parametrize("pad_token_id", [0, 5])
def test_positions_of_m2m100_count_on_from_the_pad_token(pad_token_id: int):
    hf = random_hf("m2m100", 1, pad_token_id=pad_token_id)
    hf.model.decoder.embed_positions.make_weights(128 + pad_token_id + 1, 32, pad_token_id)
    target = [hf.config.decoder_start_token_id, 7, 8, 9, 10]
    expected = hf_logits(hf, [7, 8, 9], target)
    found = our_logits(families.describe(hf), [7, 8, 9], target)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["bart", "marian", "pegasus"])
def test_a_logits_bias_of_zeros_is_not_stored(kind: str):
    hf = random_hf(kind, 0)
    assert "final_logits_bias" in families.describe(hf).tensors
    hf.final_logits_bias.zero_()
    assert "final_logits_bias" not in families.describe(hf).tensors


@pytest.mark.parametrize("kind", ["t5-untied", "bart-untied"])
def test_two_different_input_embeddings_are_both_stored(kind: str):
    hf = random_hf(kind, 0)
    decoder = hf.get_decoder()
    decoder.embed_tokens = copy.deepcopy(decoder.embed_tokens)
    decoder.embed_tokens.weight.data += 1
    spec = families.describe(hf)
    assert spec.keys["source_vocab_size"] == spec.keys["vocab_size"]
    assert_same_logits(hf, spec, seed=1)


def test_source_and_target_may_have_vocabularies_of_different_sizes():
    hf = random_hf("marian-separate", 0, pad_token_id=40, decoder_start_token_id=40)
    hf.resize_decoder_token_embeddings(60)
    spec = families.describe(hf)
    assert (spec.keys["source_vocab_size"], spec.keys["vocab_size"]) == (64, 60)
    assert_same_logits(hf, spec, seed=1)


def test_a_head_that_the_config_calls_tied_is_compared_with_the_embedding():
    hf = random_hf("bart", 0)
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight + 1)
    assert hf.config.tie_word_embeddings
    spec = families.describe(hf)
    assert not spec.keys["tied_lm_head"]
    assert_same_logits(hf, spec, seed=1)


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


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 4, "num_return_sequences": 2}])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_search_gives_what_transformers_gives(kind: str, options: dict[str, int]):
    model = random_model(kind, seed=4)
    eos = model.hf.config.eos_token_id
    sources = [random_ids(n, n) for n in (1, 5, 17, 9)]
    found = model.generate([model.cross_kv(source) for source in sources], max_new_tokens=14, **options)
    for source, hypotheses in zip(sources, found, strict=True):
        expected = model.hf.generate(torch.tensor([source]), max_new_tokens=14, do_sample=False, **options)
        for hypothesis, ids in zip(hypotheses, expected[:, 1:].tolist(), strict=True):
            n_tokens = [*ids, eos].index(eos) + 1  # what follows is padding
            assert hypothesis.token_ids == tuple(ids[:n_tokens])
