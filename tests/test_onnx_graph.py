"""Graphs that ask ONNX Runtime for more than arithmetic are refused before it sees them."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edge_s2s import BundleError
from edge_s2s.onnx_graph import OPERATORS, check_onnx
from edge_s2s.static_encoder import padded
from edge_s2s_export import families
from edge_s2s_export.onnx_encoder import export_encoder
from edge_s2s_export.static_encoder import quantize_graph, static_graph
from tiny_models import KINDS, random_hf


def graph() -> ModelProto:
    """y = x + w."""
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], [weight]))


def check(model: ModelProto) -> None:
    check_onnx(memoryview(model.SerializeToString()), "encoder.onnx")


def add_external_data(model: ModelProto) -> None:
    weight = model.graph.initializer[0]
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/hostname")


def add_location_only(model: ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def add_external_attribute(model: ModelProto) -> None:
    value = numpy_helper.from_array(np.ones(1, np.float32))
    value.external_data.add(key="location", value="weights.bin")
    model.graph.node.append(helper.make_node("ConstantOfShape", ["s"], ["c"], value=value))


def add_subgraph(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", ["x", "w"], ["z"], body=graph().graph))


def add_subgraphs(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", ["x", "w"], ["z"], bodies=[graph().graph]))


def add_operator(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Loop", ["x"], ["z"]))


def add_domain(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Add", ["x", "w"], ["z"], domain="com.example"))


def add_opset(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def add_sparse_initializer(model: ModelProto) -> None:
    values, indices = (numpy_helper.from_array(np.ones(1, dtype), "s") for dtype in (np.float32, np.int64))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def add_function(model: ModelProto) -> None:
    model.functions.append(helper.make_function("f", "F", ["a"], ["a"], [], []))


def add_training_info(model: ModelProto) -> None:
    model.training_info.add()


def add_nodes(model: ModelProto) -> None:
    model.graph.node.extend([helper.make_node("Add", ["x", "w"], ["z"])] * 20_000)


HOSTILE = [
    add_external_data, add_location_only, add_external_attribute, add_subgraph, add_subgraphs, add_operator,
    add_domain, add_opset, add_sparse_initializer, add_function, add_training_info, add_nodes,
]  # fmt: skip


def test_a_plain_graph_passes():
    check(graph())


@pytest.mark.parametrize("change", HOSTILE)
def test_a_graph_is_refused_that_somebody_did(change: Callable[[ModelProto], None]):
    model = graph()
    change(model)
    with pytest.raises(BundleError, match=r"^encoder\.onnx: expected "):
        check(model)


def test_a_field_number_with_bits_that_protobuf_drops_is_refused():
    """protobuf keeps 32 bits of a number, so a 33rd would hide `data_location` from who keeps it."""
    tensor = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT).SerializeToString()
    tensor += b"\xf0\x80\x80\x80\x10\x01"  # the varints 14 << 3 | 1 << 32 and 1: EXTERNAL
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    model = b"\x3a" + bytes([len(graph)]) + graph
    with pytest.raises(BundleError, match="expected a field number of 1"):
        check_onnx(memoryview(model), "encoder.onnx")


@cache
def encoder_graphs() -> list[bytes]:
    """encoder.onnx of kinds that need all operators, float32 and int8."""
    encoders = [families.describe(random_hf(kind, seed=0)).encoder for kind in (*KINDS, "bart", "m2m100")]
    return [export_encoder(encoder, dtype=dtype) for encoder in encoders for dtype in ("float32", "int8")]


def static_graphs() -> list[bytes]:
    """Graphs for accelerators, of kinds that need all operators."""
    specs = [families.describe(random_hf(kind, seed=0)) for kind in ("t5-v1.1", "marian")]
    graphs = []
    for spec in specs:
        model = static_graph(spec.encoder_keys, spec.encoder_tensors, spec.keys, 8, kind="qnn-static")
        source = padded(np.ones((5, int(spec.keys["d_model"])), np.float32), 8)
        graphs.append(quantize_graph(model, [source], kind="qnn-static", scheme="a16w8"))
    return graphs


def test_encoders_pass_and_no_listed_operator_is_needless():
    used = set()
    for data in [*encoder_graphs(), *static_graphs()]:
        check_onnx(memoryview(data), "encoder.onnx")
        used |= {node.op_type for node in onnx.load_from_string(data).graph.node}
    assert used == OPERATORS


@given(st.binary(max_size=200))
def test_random_bytes_pass_or_are_a_bundle_error(data: bytes):
    with suppress(BundleError):
        check_onnx(memoryview(data), "encoder.onnx")


def test_a_real_graph_that_is_cut_anywhere_passes_or_is_a_bundle_error():
    data = memoryview(encoder_graphs()[0])
    sizes = range(0, len(data), 97)
    n_refused = 0
    for size in sizes:
        try:
            check_onnx(data[:size], "encoder.onnx")
        except BundleError:
            n_refused += 1
    assert n_refused > 0.9 * len(sizes)
