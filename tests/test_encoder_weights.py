"""The readers of encoder.weights in Python and in C: they accept the same files, and refuse by name."""

import struct

import numpy as np
import pytest

from edge_s2s.decoder import DecoderModel
from edge_s2s.encoder_weights import FILE, expected_tensors, read_encoder_weights, write_encoder_weights
from edge_s2s.errors import BundleError
from edge_s2s.weights import Key, read_weights, write_table
from hostile_weights import repair_hash
from random_weights import random_encoder, random_weights

DECODER = random_weights({})
KEYS = read_weights(DECODER).keys
VALID = random_encoder({}, DECODER)


def python_accepts(data: bytes) -> bool:
    try:
        read_encoder_weights(data, KEYS)
    except BundleError:
        return False
    return True


def c_accepts(data: bytes) -> bool:
    try:
        DecoderModel(DECODER, encoder=data)
    except BundleError:
        return False
    return True


def test_what_was_written_is_read():
    weights = read_encoder_weights(VALID, KEYS)
    assert write_encoder_weights(weights.keys, weights.tensors, KEYS) == VALID
    assert {name: (t.dtype.name, len(t.shape)) for name, t in weights.tensors.items()} == {
        name: (spec.dtype, len(spec.shape)) for name, spec in expected_tensors(weights.keys, KEYS).items()
    }
    assert c_accepts(VALID)


@pytest.mark.parametrize(
    ("features", "changes", "message"),
    [
        ({}, {"d_model": 24}, 'key "d_model": 20 as in decoder.weights'),
        ({}, {"n_layers": 200}, "tensors of 200 layers"),
        ({}, {"more": 1}, 'an unknown key "more"'),
        ({}, {"norm": "layer"}, "norm.bias"),
        ({}, {"linear_bias": 1}, "bias"),
        ({"position": "table"}, {"position_bias_per_layer": 1}, "0 with a position table"),
        ({}, {"norm_eps": 0.0}, 'key "norm_eps": 1e-12..1.0'),
        ({}, {"ffn": "tanh"}, 'key "ffn": relu or'),
    ],
)
def test_keys_that_do_not_fit_are_refused(features: dict[str, Key], changes: dict[str, Key], message: str):
    weights = read_encoder_weights(random_encoder(features, DECODER), KEYS)
    data = write_table({**weights.keys, **changes}, weights.tensors)
    with pytest.raises(BundleError, match=message.replace(".", r"\.")) as caught:
        read_encoder_weights(data, KEYS)
    assert caught.value.file == FILE
    assert not c_accepts(data)


def test_a_position_bias_has_a_middle():
    with pytest.raises(BundleError, match="an odd number of columns, found 8"):
        random_encoder({}, DECODER, n_positions=8)


def test_a_position_table_reaches_to_the_longest_source():
    decoder = random_weights({"max_source_len": 40})
    encoder = random_encoder({"position": "table"}, decoder)
    longer = {**KEYS, "max_source_len": 42}
    with pytest.raises(BundleError, match="42 rows or more, max_source_len"):
        read_encoder_weights(encoder, longer)


def test_both_readers_agree_on_mutants():
    """Bytes of header, keys and entries set to tempting values, and the hash set right."""
    draw = np.random.default_rng(3)
    _, n_tensors = struct.unpack_from("<2I", VALID, 16)
    tables_end = 64 + 256 * 16 + 128 * n_tensors
    accepted = []
    for _ in range(1500):
        data = bytearray(VALID)
        at = int(draw.integers(8, tables_end - 8))
        if draw.integers(2):
            data[at] ^= 1 << draw.integers(8)
        else:
            struct.pack_into(
                "<Q", data, at // 8 * 8, int(draw.integers(0, 1 << 63)) >> int(draw.integers(63))
            )
        damaged = repair_hash(bytes(data))
        accepted.append(python_accepts(damaged))
        assert c_accepts(damaged) == accepted[-1], at
    assert 5 < sum(accepted) < 1480
