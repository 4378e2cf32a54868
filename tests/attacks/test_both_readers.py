"""The readers in Python and in C share the specification, not code: they must accept the same files."""

import pytest

import hostile_weights
from edge_s2s.decoder import DecoderModel
from edge_s2s.errors import BundleError
from edge_s2s.weights import read_weights
from hostile_weights import VALID_WEIGHTS, WEIGHTS_ATTACKS, mutants, repair_hash


def python_accepts(data: bytes) -> bool:
    try:
        read_weights(data)
    except BundleError:
        return False
    return True


def c_accepts(data: bytes) -> bool:
    try:
        DecoderModel(data)
    except BundleError:
        return False
    return True


def test_both_accept_the_valid_file():
    assert python_accepts(VALID_WEIGHTS)
    assert c_accepts(VALID_WEIGHTS)


@pytest.mark.parametrize("name", WEIGHTS_ATTACKS)
def test_neither_accepts(name):
    data = repair_hash(WEIGHTS_ATTACKS[name])
    assert not python_accepts(data)
    assert not c_accepts(data)


def test_they_agree_on_mutants():
    accepted = []
    for data in mutants(5000):
        accepted.append(python_accepts(data))
        assert c_accepts(data) == accepted[-1], data[64 : hostile_weights.TABLES_END]
    assert 100 < sum(accepted) < 4900, "all mutants are alike"
