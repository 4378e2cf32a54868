import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from edge_s2s.encoder import _products_saturate
from edge_s2s.onnx_graph import check_onnx
from edge_s2s_export import families
from edge_s2s_export.model_spec import EncoderWithCrossKV
from edge_s2s_export.onnx_encoder import OPSET, export_encoder, trace
from tiny_models import ALL_KINDS, random_hf, random_t5

LENGTHS = [1, 2, 7, 130, 700]
DTYPES = ["float32", "int8"]


@pytest.fixture(scope="module")
def encoder() -> EncoderWithCrossKV:
    """Two layers each, softened so that int8 errors are not multiplied by random attention."""
    spec = random_t5("t5-v1.1-tied", 0, d_model=64, num_decoder_layers=2).spec
    with torch.no_grad():
        for name, weight in spec.encoder.encoder.named_parameters():
            if name.endswith((".q.weight", ".o.weight", ".wo.weight")):
                weight *= 0.25
    return spec.encoder


@pytest.fixture(scope="module")
def graphs(encoder: EncoderWithCrossKV) -> dict[str, bytes]:
    return {dtype: export_encoder(encoder, dtype=dtype) for dtype in DTYPES}


def open_session(graph: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    if _products_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(graph: bytes, embeds: torch.Tensor) -> list[np.ndarray]:
    return open_session(graph).run(["cross_kv", "mean_hidden"], {"inputs_embeds": embeds.numpy()})


def random_embeds(encoder: EncoderWithCrossKV, batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, encoder.config.d_model, generator=generator)


def cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Of each token's K or V over all heads, of two [batch, n_layers, 2, n_heads, sequence, d_head]."""
    x, y = (a.swapaxes(3, 4).reshape(*a.shape[:3], a.shape[4], -1) for a in (found, expected))
    return (x * y).sum(-1) / (np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_float_graph_equals_torch_at_every_length(kind: str):
    spec = families.describe(random_hf(kind, 1))
    encoder = spec.encoder
    graph = export_encoder(encoder, dtype="float32")
    check_onnx(memoryview(graph), "encoder.onnx")  # holds nothing that the runtime would refuse
    lengths = [min(n, int(spec.keys["max_source_len"])) for n in LENGTHS]
    for batch, length in [*((1, n) for n in lengths), (3, 33)]:
        embeds = random_embeds(encoder, batch, length)
        with torch.no_grad():
            expected = encoder(embeds)
        for found, name in zip(run(graph, embeds), ["cross_kv", "mean_hidden"], strict=True):
            assert found.shape == expected[name].shape
            np.testing.assert_allclose(found, expected[name].numpy(), atol=1e-4 * expected[name].abs().max())


@pytest.mark.parametrize("length", LENGTHS)
def test_int8_graph_is_close_to_torch(encoder: EncoderWithCrossKV, graphs: dict[str, bytes], length: int):
    embeds = random_embeds(encoder, 1, length)
    with torch.no_grad():
        expected = encoder(embeds)["cross_kv"].numpy()
    found = run(graphs["int8"], embeds)[0]
    assert not np.allclose(found, expected, atol=1e-5)  # it is quantized
    assert cosines(found, expected).mean() > 0.999
    assert cosines(found, expected).min() > 0.99


def test_int8_answer_does_not_depend_on_neighbours(encoder: EncoderWithCrossKV, graphs: dict[str, bytes]):
    loud, quiet = 100 * random_embeds(encoder, 1, 20), random_embeds(encoder, 1, 20) / 2
    alone = run(graphs["int8"], quiet)[0]
    together = run(graphs["int8"], torch.cat([loud, quiet]))[0]
    np.testing.assert_array_equal(together[1:], alone)


def test_int8_codes_are_those_of_an_independent_quantization(
    encoder: EncoderWithCrossKV, graphs: dict[str, bytes]
):
    """One projection of the graph, recomputed in numpy from the graph's own input to it."""
    graph = onnx.load_from_string(graphs["int8"])
    node = next(n for n in graph.graph.node if n.op_type == "MatMulInteger")
    source = next(n for n in graph.graph.node if n.output[0] == node.input[0]).input[0].removesuffix(".steps")
    target = node.output[0].removesuffix(".int32")
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (source, target))
    session = open_session(graph.SerializeToString())
    embeds = random_embeds(encoder, 1, 9)
    x, y = session.run([source, target], {"inputs_embeds": embeds.numpy()})
    weights = {w.name: numpy_helper.to_array(w) for w in graph.graph.initializer}
    name = node.input[1].removesuffix(".q8")
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    codes = np.clip(np.rint(x / scale), -127, 127)
    expected = (codes @ weights[f"{name}.q8"].astype(np.float64)) * scale * weights[f"{name}.scale"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_the_trace_has_the_bytes_of_plain_torch(encoder: EncoderWithCrossKV, tmp_path: Path):
    trace(encoder, tmp_path / "ours.onnx")
    embeds = torch.ones(2, 16, encoder.config.d_model)
    with pytest.warns(DeprecationWarning, match="TorchScript"):
        torch.onnx.export(
            copy.deepcopy(encoder), ({"inputs_embeds": embeds},), tmp_path / "torch.onnx",
            input_names=["inputs_embeds"], output_names=["cross_kv", "mean_hidden"],
            dynamic_axes={"inputs_embeds": {0: "batch", 1: "sequence"},
                          "cross_kv": {0: "batch", 4: "sequence"}, "mean_hidden": {0: "batch"}},
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    assert (tmp_path / "ours.onnx").read_bytes() == (tmp_path / "torch.onnx").read_bytes()


def test_exporting_twice_gives_the_same_bytes_and_leaves_the_encoder_alone(
    encoder: EncoderWithCrossKV, graphs: dict[str, bytes]
):
    config = encoder.config.to_dict()
    assert export_encoder(encoder, dtype="int8") == graphs["int8"]
    assert encoder.config.to_dict() == config


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_holds_standard_operators_and_nothing_of_this_machine(graphs: dict[str, bytes], dtype: str):
    model = onnx.load_from_string(graphs[dtype])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert {node.domain for node in model.graph.node} == {""}
    assert model.ir_version == 8
    assert not model.metadata_props
    assert not model.functions
    assert not any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute)
    assert all(tensor.data_location != onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer)
    assert str(Path.cwd()).encode() not in graphs[dtype]
    assert b"site-packages" not in graphs[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_weight_is_stored_once(encoder: EncoderWithCrossKV, graphs: dict[str, bytes], dtype: str):
    model = onnx.load_from_string(graphs[dtype])
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    matrices = [m for m in encoder.modules() if isinstance(m, torch.nn.Linear)]
    stored = [numpy_helper.to_array(t) for t in model.graph.initializer]
    stored += [numpy_helper.to_array(n.attribute[0].t) for n in model.graph.node if n.op_type == "Constant"]
    kind = np.int8 if dtype == "int8" else np.float32
    big = [array for array in stored if array.ndim == 2 and array.dtype == kind and array.size >= 64 * 8]
    assert len(big) >= len(matrices) > 10
    assert sum(array.size for array in big) <= sum(m.weight.numel() for m in matrices) + 64 * 8
    if dtype == "int8":
        assert max(array.size for array in stored if array.dtype == np.float32) <= 128
        assert min(array.min() for array in big) >= -127


def test_int8_keeps_attention_itself_in_float(encoder: EncoderWithCrossKV, graphs: dict[str, bytes]):
    operators = [node.op_type for node in onnx.load_from_string(graphs["int8"]).graph.node]
    assert operators.count("MatMul") == 2 * encoder.config.num_layers  # scores and values
    assert operators.count("MatMulInteger") == sum(isinstance(m, torch.nn.Linear) for m in encoder.modules())
