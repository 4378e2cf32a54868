"""The default model gives the same bits with every kernel set and thread count, alone and among others."""

import dataclasses
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import edge_s2s
from edge_s2s.bundle import Bundle, open_bundle
from edge_s2s.decoder import DecoderModel, DecoderSession, supported_isas

GOLDEN = Path(__file__).parent / "golden" / "default_cross_kv.npz"
DEFAULT = edge_s2s.default_bundle_path()
pytestmark = pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle() -> Iterator[Bundle]:
    with open_bundle(DEFAULT) as opened:
        yield opened


@cache
def golden() -> dict[str, npt.NDArray[np.generic]]:
    with np.load(GOLDEN) as file:
        return dict(file)


def stored_cross_kv(dims) -> list[Floats]:
    """float32 [n_layers, 2, n_heads, source_len, d_head] of each stored source."""
    stored = golden()
    floats_per_token = dims.n_layers * 2 * dims.n_heads * dims.d_head
    ends = np.cumsum(stored["lengths"] * floats_per_token)
    pieces = np.split(stored["codes"], ends[:-1])
    return [
        (piece * scale).reshape(dims.n_layers, 2, dims.n_heads, -1, dims.d_head)
        for piece, scale in zip(pieces, stored["scales"], strict=True)
    ]


def test_stored_sources_are_many_and_contain_near_ties():
    assert len(golden()["lengths"]) >= 200
    assert (golden()["margins"] < 0.05).sum() >= 50


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("num_threads", [1, 2])
def test_tokens_of_stored_sources_do_not_depend_on(bundle: Bundle, isa: str, num_threads: int):
    decoder = DecoderModel(bundle.read("decoder.weights"), isa=isa, num_threads=num_threads)
    assert (decoder.isa, decoder.num_threads) == (isa, num_threads)
    expected = golden()["tokens"]
    params = dataclasses.replace(bundle.manifest.generation, num_beams=1, max_new_tokens=expected.shape[1])
    for cross_kv, tokens in zip(stored_cross_kv(decoder.dims), expected, strict=True):
        with decoder.session(1, 1, cross_kv.shape[3], params.max_new_tokens) as session:
            session.set_source(0, cross_kv)
            [[hypothesis]] = session.generate(params)
        assert list(hypothesis.token_ids) == tokens[tokens >= 0].tolist()


def step_through(session: DecoderSession, tokens: npt.NDArray[np.int32]) -> Floats:
    """Logits float32 [n_steps, n_rows, vocab_size] of teacher-forced tokens [n_steps, n_rows]."""
    return np.stack([session.step(row) for row in tokens])


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_row_has_the_same_bits_alone_in_a_beam_of_4_and_in_a_batch_of_8(
    bundle: Bundle, isa: str, num_threads: int
):
    decoder = DecoderModel(bundle.read("decoder.weights"), isa=isa, num_threads=num_threads)
    scalar = DecoderModel(bundle.read("decoder.weights"), isa="scalar")
    sources = sorted(stored_cross_kv(decoder.dims), key=lambda kv: kv.shape[3])[::25][:8]
    assert len({kv.shape[3] for kv in sources}) >= 4, "batches are to be unequal"
    n_steps, longest = 12, max(kv.shape[3] for kv in sources)
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, decoder.dims.vocab_size, (n_steps, 8), dtype=np.int32)
    tokens[0] = decoder.dims.decoder_start_token_id

    alone = np.empty((n_steps, 8, decoder.dims.vocab_size), np.float32)
    for row, cross_kv in enumerate(sources):
        with scalar.session(1, 1, longest, n_steps) as session:
            session.set_source(0, cross_kv)
            alone[:, row] = step_through(session, tokens[:, row : row + 1])[:, 0]

    with decoder.session(8, 1, longest, n_steps) as session:
        for row, cross_kv in enumerate(sources):
            session.set_source(row, cross_kv)
        assert (step_through(session, tokens).view(np.uint32) == alone.view(np.uint32)).all()

    with decoder.session(1, 4, longest, n_steps) as session:
        for row, cross_kv in enumerate(sources):
            beams = rng.integers(3, decoder.dims.vocab_size, (n_steps, 4), dtype=np.int32)
            beams[:, 2] = tokens[:, row]
            session.set_source(0, cross_kv)
            in_beam = step_through(session, beams)[:, 2]
            assert (in_beam.view(np.uint32) == alone[:, row].view(np.uint32)).all()
