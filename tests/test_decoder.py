"""The C core behind its Python face: steps against numpy, statuses as exceptions, memory kept alive."""

import gc
import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edge_s2s import BundleError, CoreError
from edge_s2s.decoder import DecoderModel, DecoderSession, Floats, supported_isas
from edge_s2s.manifest import GenerationDefaults
from edge_s2s.weights import read_weights, write_weights
from edge_s2s_export.quantize import quantize_tensors
from edge_s2s_export.reference_decoder import ReferenceDecoder
from tiny_bundle import tiny_keys, tiny_tensors
from tiny_models import KINDS, TinyModel, random_t5

KEYS = tiny_keys()
WEIGHTS = write_weights(KEYS, tiny_tensors(KEYS))  # 20 tokens, 2 layers of 2 heads of 3
GREEDY = replace(GenerationDefaults.from_keys(KEYS), num_beams=1, num_return_sequences=1)


def cross_kv(source_len: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((2, 2, 2, source_len, 3)).astype(np.float32)


@pytest.fixture
def decoder() -> DecoderModel:
    return DecoderModel(WEIGHTS)


@pytest.fixture
def session(decoder: DecoderModel) -> Iterator[DecoderSession]:
    with decoder.session(2, 4, 32, 16) as opened:
        yield opened


def test_dims_are_those_of_the_weights(decoder: DecoderModel):
    dims = vars(decoder.dims)
    assert dims == {**{name: KEYS[name] for name in dims if name in KEYS}, "source_vocab_size": 20}


def test_embed_looks_up_scaled_rows(decoder: DecoderModel):
    tensors = read_weights(WEIGHTS).tensors
    ids = [0, 7, 19, 7]
    expected = tensors["embedding.weight"][ids] * tensors["embedding.weight_scale"][ids, None]
    np.testing.assert_array_equal(decoder.embed(ids), expected.astype(np.float32))
    assert decoder.embed([]).shape == (0, 8)


def int8_weights(model: TinyModel) -> bytes:
    matrices = {name for name, tensor in model.spec.tensors.items() if tensor.ndim == 2 and "weight" in name}
    keys = {**model.spec.keys, "weights_dtype": "int8"}
    return write_weights(keys, quantize_tensors(model.spec.tensors, matrices))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_equals_the_numpy_decoder(kind: str, dtype: str):
    """float32: sums in another order, 1e-4. int8: where that turns a rounding, one code of 127."""
    model = random_t5(kind, seed=1)
    weights = (
        write_weights(model.spec.keys, model.spec.tensors) if dtype == "float32" else int8_weights(model)
    )
    kv = model.cross_kv([5, 9, 30, 12])
    tokens = np.random.default_rng(0).integers(2, 64, 12)
    expected = ReferenceDecoder(read_weights(weights), kv).feed(tokens.tolist())
    with DecoderModel(weights).session(1, 1, 4, 12) as session:
        session.set_source(0, kv)
        logits = np.concatenate([session.step([token]) for token in tokens])
    if dtype == "float32":
        np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    else:
        differences = np.abs(logits - expected).max(axis=1) / np.abs(expected).max()
        assert np.median(differences) < 1e-4
        assert differences.max() < 0.05


def test_a_reordered_row_continues_what_the_other_row_decoded(session: DecoderSession):
    session.set_source(0, cross_kv(5))
    session.step([0, 0, 0])
    session.step([3, 4, 5])
    session.reorder_cache([2, 0, 2])
    logits = session.step([6, 6, 7])
    for i, path in enumerate([[0, 5, 6], [0, 3, 6], [0, 5, 7]]):
        session.set_source(0, cross_kv(5))
        alone = [session.step([token]) for token in path]
        np.testing.assert_array_equal(logits[i], alone[-1][0])


def test_sources_are_forgotten_on_clear(session: DecoderSession):
    for row in range(2):
        session.set_source(row, cross_kv(5, seed=row))
    assert len(session.generate(GREEDY)) == 2
    session.clear()
    session.set_source(0, cross_kv(5, seed=1))
    assert len(session.generate(GREEDY)) == 1


@pytest.mark.parametrize("isa", supported_isas())
def test_the_kernel_set_can_be_forced(isa: str):
    assert DecoderModel(WEIGHTS, isa=isa).isa == isa


def test_by_default_the_widest_kernel_set_runs(decoder: DecoderModel):
    assert decoder.isa == supported_isas()[-1]
    assert supported_isas()[0] == "scalar"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"isa": "mmx"}, 'isa: expected one of "scalar.*", found "mmx"'),
        ({"num_threads": 0}, "n_threads: expected 1..64, found 0"),
        ({"num_threads": 65}, "n_threads: expected 1..64, found 65"),
    ],
)
def test_wrong_model_arguments_are_value_errors(change: dict[str, object], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        DecoderModel(WEIGHTS, **change)  # type: ignore[arg-type]


def test_wrong_session_arguments_are_value_errors(decoder: DecoderModel, session: DecoderSession):
    with pytest.raises(ValueError, match="max_batch"):
        decoder.session(0, 1, 8, 8)
    with pytest.raises(ValueError, match="found 20"):
        decoder.embed([3, 20])
    with pytest.raises(ValueError, match=r"cross_kv: expected .* found \(2, 2, 2, 3\)"):
        session.set_source(0, cross_kv(5)[:, :, :, 0])
    with pytest.raises(ValueError, match="cross_kv"):
        session.set_source(0, cross_kv(5)[:1])
    with pytest.raises(ValueError, match="source_len"):
        session.set_source(0, cross_kv(33))
    with pytest.raises(ValueError, match="row"):
        session.set_source(2, cross_kv(5))
    session.set_source(0, cross_kv(5))
    with pytest.raises(ValueError, match="tokens"):
        session.step([20])
    session.step([0])
    with pytest.raises(ValueError, match="beam_idx"):
        session.reorder_cache([1])
    session.clear()
    session.set_source(0, cross_kv(5))
    with pytest.raises(ValueError, match="max_new_tokens"):
        session.generate(replace(GREEDY, max_new_tokens=17))


def test_a_step_without_a_source_is_a_core_error(session: DecoderSession):
    with pytest.raises(CoreError, match=r"sources: .* \(status -8\)") as raised:
        session.step([0])
    assert raised.value.status == -8


def test_damaged_weights_are_a_bundle_error():
    flipped = bytearray(WEIGHTS)
    flipped[-100] ^= 1
    for data in (b"", WEIGHTS[:-1], bytes(flipped)):
        with pytest.raises(BundleError, match=r"^decoder\.weights: expected"):
            DecoderModel(data)
    assert DecoderModel(flipped, verify=False).dims.d_model == 8, "the hash is the only fault"


def test_a_closed_session_refuses_work(session: DecoderSession):
    session.set_source(0, cross_kv(5))
    assert session.size_bytes > 1000
    session.close()
    session.close()
    with pytest.raises(ValueError, match="session"):
        session.generate(GREEDY)
    with pytest.raises(ValueError, match="session"):
        session.step([0])


@pytest.mark.parametrize("order", list(itertools.permutations(["weights", "model", "session"])))
def test_any_order_of_letting_go_is_safe(order: tuple[str, ...]):
    """A session keeps its model, and a model its weights."""
    held: dict[str, object] = {"weights": bytearray(WEIGHTS)}
    held["model"] = model = DecoderModel(held["weights"])  # type: ignore[arg-type]
    held["session"] = session = model.session(1, 1, 8, 8)
    del model
    session.set_source(0, cross_kv(5))
    expected = session.generate(replace(GREEDY, max_new_tokens=8))
    for name in order:
        if name == "session":
            del session
        del held[name]
        gc.collect()
        if name != "session" and "session" in held:
            assert held["session"].generate(replace(GREEDY, max_new_tokens=8)) == expected  # type: ignore[attr-defined]


def test_many_sessions_leave_no_memory_behind(decoder: DecoderModel):
    """10,000 sessions of 30 kB would be 300 MB."""
    resource = pytest.importorskip("resource")
    decoder.session(2, 4, 32, 16).close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(10_000):
        decoder.session(2, 4, 32, 16)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB
