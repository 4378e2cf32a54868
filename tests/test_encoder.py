"""ONNX Runtime runs the encoder as asked, or says why not."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper
from onnx.reference import ReferenceEvaluator
from transformers import T5ForConditionalGeneration

from edge_s2s import BundleError, ProviderError
from edge_s2s import encoder as encoder_module
from edge_s2s.bundle import Bundle, open_bundle
from edge_s2s.encoder import Encoder

FILE = "encoder.onnx"


def with_graph(bundle: Bundle, data: bytes) -> Bundle:
    """The same bundle with another encoder.onnx."""
    files = {name: bundle.read(name) for name in bundle.manifest.files} | {FILE: memoryview(data)}
    return Bundle(bundle.path, bundle.kind, bundle.manifest, bundle.weights, MappingProxyType(files))


def embeds(n_tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_tokens, 32)).astype(np.float32)


@pytest.mark.parametrize("n_tokens", [1, 2, 7, 130, 1024])
def test_float32_encoder_equals_pytorch(tiny_folder: Path, tiny_float_bundle: Path, n_tokens: int):
    hf = T5ForConditionalGeneration.from_pretrained(tiny_folder).eval()
    x = embeds(n_tokens)
    with torch.no_grad():
        hidden = hf.encoder(inputs_embeds=torch.from_numpy(x[None])).last_hidden_state
        expected = [
            projection(hidden).view(n_tokens, hf.config.num_heads, hf.config.d_kv).transpose(0, 1).numpy()
            for block in hf.decoder.block
            for projection in (block.layer[1].EncDecAttention.k, block.layer[1].EncDecAttention.v)
        ]
    with open_bundle(tiny_float_bundle) as bundle:
        encoded = Encoder(bundle).run(x)
    shape = (len(hf.decoder.block), 2, hf.config.num_heads, n_tokens, hf.config.d_kv)
    assert (encoded.cross_kv.shape, encoded.cross_kv.dtype) == (shape, np.float32)
    np.testing.assert_allclose(encoded.cross_kv, np.reshape(expected, shape), atol=1e-4)  # other sum orders
    np.testing.assert_allclose(encoded.mean_hidden, hidden[0].mean(dim=0).numpy(), atol=1e-4)


def test_bits_do_not_depend_on_threads_or_on_what_ran_before(tiny_bundle: Path):
    with open_bundle(tiny_bundle) as bundle:
        one, two = Encoder(bundle, num_threads=1), Encoder(bundle, num_threads=2)
    expected = one.run(embeds(57)).cross_kv
    two.run(embeds(300, seed=1))
    np.testing.assert_array_equal(two.run(embeds(57)).cross_kv, expected)


def test_a_provider_that_this_runtime_lacks_is_an_error_that_names_both(tiny_bundle: Path):
    with open_bundle(tiny_bundle) as bundle:
        with pytest.raises(
            ProviderError, match=r"asked for VitisAIExecutionProvider; this .* CPUExecutionProvider"
        ):
            Encoder(bundle, providers=["VitisAIExecutionProvider", "CPUExecutionProvider"])
        assert Encoder(bundle, providers=["CPUExecutionProvider"]).providers == ("CPUExecutionProvider",)


def test_a_silent_fallback_is_an_error(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch):
    """A provider that is there but does not start: ONNX Runtime goes on with the CPU and only prints."""
    monkeypatch.setattr(
        ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with (
        open_bundle(tiny_bundle) as bundle,
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(ProviderError, match=r"asked for CUDA.*, CPU.*; got CPUExecutionProvider"),
    ):
        Encoder(bundle, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])


def test_a_provider_that_leaves_the_work_to_the_cpu_is_an_error(tiny_bundle: Path):
    """Azure's, which every wheel for PCs has, starts anywhere and takes no node of a plain graph."""
    azure = "AzureExecutionProvider"
    if azure not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has no provider that starts and takes no node")
    with open_bundle(tiny_bundle) as bundle:
        with pytest.raises(ProviderError, match=f"without CPUExecutionProvider .* {FILE}"):
            Encoder(bundle, providers=[azure])
        assert Encoder(bundle, providers=[azure, "CPUExecutionProvider"]).providers[0] == azure


@pytest.mark.parametrize("data", [b"", b"not a graph", b"\x08\x08", os.urandom(64)])
def test_a_damaged_graph_is_a_bundle_error_and_prints_nothing(
    tiny_bundle: Path, data: bytes, capfd: pytest.CaptureFixture[str]
):
    with open_bundle(tiny_bundle) as bundle, pytest.raises(BundleError, match=FILE):
        Encoder(with_graph(bundle, data))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", ["d_model", "n_layers", "n_heads", "d_head"])
def test_a_graph_of_other_sizes_than_the_manifests_is_a_bundle_error(tiny_bundle: Path, size: str):
    with open_bundle(tiny_bundle) as bundle:
        dims = bundle.manifest.dimensions
        n = getattr(dims, size) + 1
        bundle.manifest = replace(bundle.manifest, dimensions=replace(dims, **{size: n}))
        with pytest.raises(
            BundleError, match=rf"put (inputs_embeds|cross_kv) as tensor\(float\) .*\b{n}\b.*found"
        ):
            Encoder(bundle)


def rename_input(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.input[:] = ["x" if name == "inputs_embeds" else name for name in node.input]
    graph.input[0].name = "x"


def rename_output(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Abs", ["cross_kv"], ["kv"]))
    graph.output[0].name = "kv"


def fix_length(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for value in (graph.input[0], graph.output[0]):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "sequence":
                dim.dim_value = 5


def add_output(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, None))
    graph.node.append(helper.make_node("Abs", ["mean_hidden"], ["more"]))


def change_type(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["m" if name == "mean_hidden" else name for name in node.output]
    graph.node.append(helper.make_node("Cast", ["m"], ["mean_hidden"], to=onnx.TensorProto.DOUBLE))
    graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_input, "expected inputs inputs_embeds, found 'x'"),
        (rename_output, "expected outputs cross_kv, mean_hidden, found 'kv', 'mean_hidden'"),
        (add_output, "expected outputs cross_kv, mean_hidden, found .* 'more'"),
        (
            fix_length,
            r"expected input inputs_embeds as tensor\(float\) \['batch', 'sequence', 32\], found .* 5, 32",
        ),
        (change_type, r"expected output mean_hidden as tensor\(float\) .* found tensor\(double\)"),
    ],
)
def test_names_and_types_other_than_the_runtimes_are_a_bundle_error(
    tiny_bundle: Path, change: Callable[[onnx.GraphProto], None], message: str
):
    with open_bundle(tiny_bundle) as bundle:
        model = onnx.load_from_string(bytes(bundle.read(FILE)))
        change(model.graph)
        with pytest.raises(BundleError, match=message):
            Encoder(with_graph(bundle, model.SerializeToString()))


@pytest.mark.parametrize("text", [b"sequence", b"inputs_embeds", b"cross_kv"])
def test_names_of_inputs_and_sizes_that_are_no_utf8_are_a_bundle_error(tiny_bundle: Path, text: bytes):
    with open_bundle(tiny_bundle) as bundle:
        data = bytes(bundle.read(FILE)).replace(text, text[:-1] + b"\x80")
        with pytest.raises(BundleError, match="can't decode byte 0x80"):
            Encoder(with_graph(bundle, data))


def rename_cross_kv(graph: onnx.GraphProto) -> None:
    """To "kv", so that a node can be added that makes cross_kv of it."""
    for node in graph.node:
        node.input[:] = ["kv" if name == "cross_kv" else name for name in node.input]
        node.output[:] = ["kv" if name == "cross_kv" else name for name in node.output]


def double(graph: onnx.GraphProto, axis: int) -> None:
    rename_cross_kv(graph)
    graph.node.append(helper.make_node("Concat", ["kv", "kv"], ["cross_kv"], axis=axis))


def double_mean(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.output[:] = ["m" if name == "mean_hidden" else name for name in node.output]
    graph.node.append(helper.make_node("Concat", ["m", "m"], ["mean_hidden"], axis=0))


def add_other_lengths(graph: onnx.GraphProto) -> None:
    double(graph, axis=4)
    graph.node[-1].output[:] = ["twice"]
    graph.node.append(helper.make_node("Add", ["kv", "twice"], ["cross_kv"]))


def ask_for_more_memory_than_there_is(graph: onnx.GraphProto) -> None:
    rename_cross_kv(graph)
    factors = np.array([1, 1, 1, 1, 1 << 50, 1])
    graph.initializer.append(onnx.numpy_helper.from_array(factors, "factors"))
    graph.node.append(helper.make_node("Shape", ["kv"], ["shape"]))
    graph.node.append(helper.make_node("Mul", ["shape", "factors"], ["huge"]))
    graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["cross_kv"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (partial(double, axis=0), r"cross_kv \[1, \d, 2, \d, 3, \d+\], found \[2, \d, 2, \d, 3, \d+\]"),
        (partial(double, axis=4), r"cross_kv \[1, \d, 2, \d, 3, \d+\], found \[1, \d, 2, \d, 6, \d+\]"),
        (double_mean, "mean_hidden of 1 source, found .2, "),
        (add_other_lengths, "a graph that runs on 3 tokens, found .*Add node"),
        (ask_for_more_memory_than_there_is, "allocate memory"),
    ],
)
def test_what_shows_only_when_a_graph_runs_is_an_error_of_ours_too(
    tiny_bundle: Path, change: Callable[[onnx.GraphProto], None], message: str
):
    with open_bundle(tiny_bundle) as bundle:
        model = onnx.load_from_string(bytes(bundle.read(FILE)))
        change(model.graph)
        encoder = Encoder(with_graph(bundle, model.SerializeToString()))
    kind = MemoryError if change is ask_for_more_memory_than_there_is else BundleError
    with pytest.raises(kind, match=message):
        encoder.run(embeds(3))


def test_the_probe_is_a_valid_model_and_asks_for_what_does_not_fit_16_bits():
    model = onnx.load_from_string(encoder_module._probe_model(64, 16))
    onnx.checker.check_model(model, full_check=True)
    (product,) = ReferenceEvaluator(model).run(None, {"a": np.full((1, 64), 255, np.uint8)})
    assert (product == 2072640).all()
    assert product.shape == (1, 16)


def test_only_where_products_saturate_weights_are_made_unsigned(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    options = []
    open_session = encoder_module._open_session
    monkeypatch.setattr(
        encoder_module,
        "_open_session",
        lambda model, o, *rest: options.append(o) or open_session(model, o, *rest),
    )
    for saturate, expected in ((False, "0"), (True, "1")):
        monkeypatch.setattr(encoder_module, "_products_saturate", lambda saturate=saturate: saturate)
        with open_bundle(tiny_bundle) as bundle:
            Encoder(bundle, num_threads=3)
        set_options = options[-1]
        try:
            found = set_options.get_session_config_entry("session.x64quantprecision")
        except RuntimeError:
            found = "0"  # not set
        assert found == expected
        assert set_options.get_session_config_entry("mlas.disable_kleidiai") == "1"
        assert set_options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        assert (set_options.intra_op_num_threads, set_options.inter_op_num_threads) == (3, 1)


def test_a_model_leaves_no_telemetry_behind(tmp_path):
    """ONNX Runtime's own builds keep a database of events in the home folder and send it away."""
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import edge_s2s; edge_s2s.load().generate(['Tom said hi.'])"
    subprocess.run([sys.executable, "-c", code], env=environment | home, check=True, timeout=120)
    assert [*tmp_path.rglob("*")] == []
