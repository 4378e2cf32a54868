"""Every feature of the decoder, each with each: the C core against the numpy decoder."""

import itertools
import math
import random

import numpy as np
import pytest

from edge_s2s.decoder import DecoderModel, Floats, supported_isas
from edge_s2s.weights import STRING_KEYS, Key, read_weights
from edge_s2s_export.reference_decoder import ReferenceDecoder
from random_weights import random_weights

VALUES: dict[str, list[dict[str, Key]]] = {  # each list holds the values of one feature
    "dtype": [
        {"weights_dtype": "float32"},
        {"weights_dtype": "int8", "head_rescore": 0},
        {"weights_dtype": "int8", "head_rescore": 4},
    ],
    "norm": [{"norm": "rms"}, {"norm": "layer"}],
    "norm_position": [{"norm_position": "pre"}, {"norm_position": "post"}],
    "position": [
        {"position": "relative_bias", "position_bias_per_layer": 0},
        {"position": "relative_bias", "position_bias_per_layer": 1},
        {"position": "table"},
    ],
    "ffn": [{"ffn": ffn} for ffn in STRING_KEYS["ffn"] or ()],
    "embedding_norm": [{"embedding_norm": 0}, {"embedding_norm": 1}],
    "final_norm": [{"final_norm": 0}, {"final_norm": 1}],
    "linear_bias": [{"linear_bias": 0}, {"linear_bias": 1}],
    "tied_lm_head": [{"tied_lm_head": 0}, {"tied_lm_head": 1}],
    "final_logits_bias": [{"final_logits_bias": 0}, {"final_logits_bias": 1}],
    "embedding_scale": [{"embedding_scale": 1.0}, {"embedding_scale": math.sqrt(20)}],
    "source_vocab_size": [{}, {"source_vocab_size": 23}],
    "kv_cache_dtype": [{}, {"kv_cache_dtype": "float16"}],
}
N_LAYERS, N_HEADS, D_HEAD = 2, 3, 6


def pairwise() -> list[dict[str, Key]]:
    """Few combinations that hold every value of each feature with every value of each other one."""
    choose = random.Random(0)
    names = list(VALUES)

    def pairs(row: tuple[int, ...]) -> set[tuple[int, int, int, int]]:
        return {(i, row[i], j, row[j]) for i, j in itertools.combinations(range(len(row)), 2)}

    missing = set().union(*(
        {(i, a, j, b) for a in range(len(VALUES[names[i]])) for b in range(len(VALUES[names[j]]))}
        for i, j in itertools.combinations(range(len(names)), 2)
    ))  # fmt: skip
    rows = []
    while missing:
        candidates = [tuple(choose.randrange(len(VALUES[name])) for name in names) for _ in range(300)]
        best = max(candidates, key=lambda row: len(pairs(row) & missing))
        if gained := pairs(best) & missing:
            missing -= gained
            rows.append(best)
    return [
        {key: value for name, i in zip(names, row, strict=True) for key, value in VALUES[name][i].items()}
        for row in rows
    ]


COMBINATIONS = pairwise()
NAMES = [",".join(str(value) for value in features.values()) for features in COMBINATIONS]


def cross_kv(source_len: int, seed: int = 0) -> Floats:
    shape = (N_LAYERS, 2, N_HEADS, source_len, D_HEAD)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("features", COMBINATIONS, ids=NAMES)
def test_every_step_equals_the_numpy_decoder(features: dict[str, Key]):
    """float32: sums in another order, 1e-5. int8: from where that turns a rounding, one code of 127."""
    weights = random_weights(features)
    tokens = np.random.default_rng(1).integers(0, 37, 16)
    expected = ReferenceDecoder(read_weights(weights), cross_kv(5)).feed(tokens.tolist())
    with DecoderModel(weights).session(1, 1, 5, 16) as session:
        session.set_source(0, cross_kv(5))
        logits = np.concatenate([session.step([token]) for token in tokens])
    differences = np.abs(logits - expected).max(axis=1) / np.abs(expected).max()
    if features["weights_dtype"] == "float32":
        assert differences.max() < 1e-5
    else:
        assert differences[0] < 1e-5
        assert differences.max() < 0.05


@pytest.mark.parametrize("features", COMBINATIONS, ids=NAMES)
def test_a_row_has_the_same_bits_in_any_batch_with_any_threads_and_kernels(features: dict[str, Key]):
    weights = random_weights(features)
    tokens = np.random.default_rng(2).integers(0, 37, (5, 4))  # [n_steps, n_rows]
    alone = []
    for row in range(4):
        with DecoderModel(weights, isa="scalar").session(1, 1, 8, 5) as session:
            session.set_source(0, cross_kv(3 + row // 2, seed=row // 2))
            alone.append(np.concatenate([session.step([token]) for token in tokens[:, row]]))
    expected = np.stack(alone, axis=1)  # [n_steps, n_rows, vocab_size]
    for isa, num_threads in itertools.product(supported_isas(), (1, 2)):
        with DecoderModel(weights, isa=isa, num_threads=num_threads).session(2, 2, 8, 5) as session:
            for source in range(2):
                session.set_source(source, cross_kv(3 + source, seed=source))
            logits = np.stack([session.step(step) for step in tokens])
        np.testing.assert_array_equal(logits.view(np.uint32), expected.view(np.uint32), err_msg=isa)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_rows_of_different_ages_read_their_own_positions(dtype: str):
    weights = random_weights({"position": "table", "weights_dtype": dtype})
    decoder = DecoderModel(weights)
    with decoder.session(1, 1, 4, 16) as session:
        session.set_source(0, cross_kv(4))
        expected = session.step([3])
    with decoder.session(2, 1, 4, 16) as session:
        session.set_source(0, cross_kv(4, seed=9))
        session.set_source(1, cross_kv(4))
        session.step([1, 3])
        session.set_source(1, cross_kv(4))  # starts anew beside a row at position 1
        np.testing.assert_array_equal(session.step([2, 3])[1:], expected)


def test_a_position_past_the_table_is_refused():
    weights = random_weights({"position": "table"})
    with DecoderModel(weights).session(1, 1, 4, 10_000) as session:
        session.set_source(0, cross_kv(4))
        for _ in range(16):  # max_target_len
            session.step([3])
        with pytest.raises(ValueError, match=r"position \+ 1: .* found 17"):
            session.step([3])


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_source_is_embedded_by_its_own_table_and_never_scaled(dtype: str):
    shared = {"weights_dtype": dtype, "embedding_scale": 8.0}
    for features, name, n_tokens in (
        (shared, "embedding.weight", 37),
        ({**shared, "source_vocab_size": 41}, "encoder_embedding.weight", 41),
    ):
        weights = random_weights(features)
        tensors = read_weights(weights).tensors
        expected = tensors[name].astype(np.float32)
        if dtype == "int8":
            expected *= tensors[f"{name}_scale"][:, None]
        decoder = DecoderModel(weights)
        assert decoder.dims.source_vocab_size == n_tokens
        np.testing.assert_array_equal(decoder.embed(range(n_tokens)), expected)
        with pytest.raises(ValueError, match=rf"expected 0..{n_tokens - 1}, found {n_tokens}"):
            decoder.embed([n_tokens])
