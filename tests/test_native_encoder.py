"""The encoder of the C core: against numpy for every feature, against torch for every family."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_s2s
from edge_s2s.bundle import open_bundle
from edge_s2s.decoder import Cancellation, DecoderModel, Floats, supported_isas
from edge_s2s.errors import BundleError
from edge_s2s.weights import Key, read_weights, write_weights
from edge_s2s_export import families
from edge_s2s_export.convert import _encoder_file, convert
from edge_s2s_export.reference_encoder import ReferenceEncoder
from random_weights import random_encoder, random_weights
from test_decoder_features import COMBINATIONS, NAMES
from tiny_folders import make_tiny_folder
from tiny_models import ALL_KINDS, random_hf

LENGTHS = (1, 7, 33, 130)


def encode(model: DecoderModel, ids: list[int]) -> Floats:
    with model.session(1, 1, len(ids), 1) as session:
        assert session.encode(0, ids) is not None
        return session.source(0)


def random_ids(n: int, vocab_size: int = 23) -> list[int]:
    return np.random.default_rng(n).integers(0, vocab_size, n).tolist()


@pytest.mark.parametrize("features", COMBINATIONS, ids=NAMES)
def test_every_feature_equals_the_numpy_encoder(features: dict[str, Key]):
    """float32: sums in another order, 1e-5. int8: from where that turns a rounding, one code of 127.

    A float16 cache rounds what the encoder gives, by 2^-11 at most.
    """
    limit = 1e-5 + (2**-11 if features.get("kv_cache_dtype") == "float16" else 0)
    decoder = random_weights({**features, "max_source_len": 256})
    encoder = random_encoder(features, decoder)
    reference = ReferenceEncoder(read_encoder(encoder, decoder), read_weights(decoder))
    model = DecoderModel(decoder, encoder=encoder)
    for n in LENGTHS:
        expected, _ = reference.encode(random_ids(n))
        found = encode(model, random_ids(n))
        difference = np.abs(found - expected).max() / np.abs(expected).max()
        assert difference < (limit if features["weights_dtype"] == "float32" else 0.05)


def read_encoder(encoder: bytes, decoder: bytes):
    return edge_s2s.encoder_weights.read_encoder_weights(encoder, read_weights(decoder).keys)


@pytest.mark.parametrize("features", COMBINATIONS[:6], ids=NAMES[:6])
def test_a_source_has_the_same_bits_with_any_threads_and_kernels(features: dict[str, Key]):
    decoder = random_weights({**features, "max_source_len": 256})
    encoder = random_encoder(features, decoder)
    expected = encode(DecoderModel(decoder, encoder=encoder, isa="scalar"), random_ids(130))
    for isa, num_threads in itertools.product(supported_isas(), (1, 2)):
        model = DecoderModel(decoder, encoder=encoder, isa=isa, num_threads=num_threads)
        found = encode(model, random_ids(130))
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32), err_msg=isa)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_family_equals_torch(kind: str):
    """float32 weights, to 1e-4 of the largest value."""
    spec = families.describe(random_hf(kind, seed=3))
    decoder = write_weights(spec.keys, spec.tensors)
    for n in (1, 20, 60):
        expected = spec.cross_kv(random_ids(n, 60))
        model = DecoderModel(decoder, encoder=_encoder_file(spec, "native", "float32"))
        np.testing.assert_allclose(
            encode(model, random_ids(n, 60)), expected, atol=1e-4 * np.abs(expected).max()
        )


def test_the_mean_of_the_hidden_states_is_that_of_the_numpy_encoder():
    decoder = random_weights({"weights_dtype": "float32", "head_rescore": 0})
    encoder = random_encoder({}, decoder)
    _, hidden = ReferenceEncoder(read_encoder(encoder, decoder), read_weights(decoder)).encode(random_ids(9))
    with DecoderModel(decoder, encoder=encoder).session(1, 1, 9, 1) as session:
        mean_hidden = session.encode(0, random_ids(9))
    np.testing.assert_allclose(mean_hidden, hidden.mean(axis=0), atol=1e-5)


def test_a_cancelled_or_late_source_is_not_encoded():
    decoder = random_weights({})
    model = DecoderModel(decoder, encoder=random_encoder({}, decoder))
    cancellation = Cancellation()
    cancellation.cancel()
    with model.session(1, 1, 9, 4) as session:
        assert session.encode(0, random_ids(9), deadline_ms=60_000) is not None
        assert session.encode(0, random_ids(9), cancellation=cancellation) is None
        assert session.encode(0, random_ids(9), deadline_ms=0) is None
        with pytest.raises(edge_s2s.errors.CoreError, match="sources: expected at least one"):
            session.step([0])


def test_a_damaged_encoder_is_named():
    decoder = random_weights({})
    damaged = bytearray(random_encoder({}, decoder))
    damaged[-100] ^= 1
    with pytest.raises(BundleError, match=r"encoder.weights: .* damaged"):
        DecoderModel(decoder, encoder=bytes(damaged))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One checkpoint, once for each encoder."""
    folder = tmp_path_factory.mktemp("native")
    make_tiny_folder(folder / "hf", seed=1)
    paths = {kind: folder / f"{kind}.es2s" for kind in ("onnx", "native")}
    for kind, path in paths.items():
        convert(folder / "hf", path, dtype="float32", encoder=kind)
    return paths


def test_a_native_bundle_generates_what_the_onnx_one_does(bundles: dict[str, Path]):
    texts = ["one two three", "three", "two one two one " * 20]
    options = edge_s2s.GenerationOptions(num_beams=3, encoder_repetition_penalty=1.3)
    with edge_s2s.load(bundles["onnx"]) as onnx, edge_s2s.load(bundles["native"], encoder="native") as native:
        for [theirs], [ours] in zip(
            onnx.generate(texts, options), native.generate(texts, options), strict=True
        ):
            assert ours.token_ids == theirs.token_ids
            assert ours.stats.providers == ("native",)
            assert theirs.stats.providers == ("CPUExecutionProvider",)
        [score] = native.score(["one two"], ["three"], output_attentions=True)
        [expected] = onnx.score(["one two"], ["three"], output_attentions=True)
        np.testing.assert_allclose(score.cross_attentions, expected.cross_attentions, atol=1e-4)


def test_a_bundle_holds_one_encoder_and_says_which(bundles: dict[str, Path]):
    for kind, other in (("onnx", "native"), ("native", "onnx")):
        with open_bundle(bundles[kind]) as bundle:
            assert [encoder.kind for encoder in bundle.manifest.encoders] == [kind]
            assert ("encoder.weights" in bundle.manifest.files) == (kind == "native")
            assert ("tokenizer.table" in bundle.manifest.files) == (kind == "native")
            assert ("encoder.onnx" in bundle.manifest.files) == (kind == "onnx")
        with pytest.raises(BundleError, match=f"an encoder of kind \"{other}\", found '{kind}'"):
            edge_s2s.load(bundles[kind], encoder=other)


def test_onnx_runtime_is_imported_for_the_first_bundle_that_needs_it(bundles: dict[str, Path]):
    code = """
import sys, edge_s2s, edge_s2s.cli
for bundle in sys.argv[1:]:
    with edge_s2s.load(bundle) as model:
        model.generate(["one two"])
    print("onnxruntime" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(bundles["native"]), str(bundles["onnx"])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == [
        "False",
        "True",
    ]


def test_execution_providers_are_not_for_the_native_encoder(bundles: dict[str, Path]):
    with pytest.raises(BundleError, match='an encoder of kind "onnx"'):
        edge_s2s.load(bundles["native"], providers=["CPUExecutionProvider"])


def test_a_native_bundle_that_lies_about_its_encoder_is_refused(bundles: dict[str, Path], tmp_path: Path):
    with open_bundle(bundles["native"]) as bundle:
        files = {name: bytes(bundle.read(name)) for name in bundle.manifest.files}
        manifest = bundle.manifest
    for name, value in (("n_encoder_layers", 7), ("encoder_weights", "int8")):
        section = "dimensions" if name == "n_encoder_layers" else "quantization"
        changed = dataclasses.replace(getattr(manifest, section), **{name: value})
        with pytest.raises(BundleError, match=f"manifest.json: expected {section}.{name}"):
            edge_s2s.bundle.write_bundle(
                tmp_path / "b.es2s", dataclasses.replace(manifest, **{section: changed}), files
            )
