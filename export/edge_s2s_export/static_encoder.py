"""The encoder for NPUs: graphs of fixed lengths, quantized beforehand (QDQ), for ONNX Runtime's providers.

Accelerators want every shape and every scale to be known when they compile. So there is one graph for each
bucket of lengths; a source is padded to the smallest that it fits, and `attention_mask` says what is padding:

    inputs_embeds   float32 [1, length, d_model], rows of the embedding as they are stored, then zeros
    attention_mask  float32 [1, length], 1 for a token, 0 for padding
    cross_k.<i>, cross_v.<i>   float32 [1, length, n_heads * d_head], for decoder layer i

It is built from the features and tensors of `encoder.weights`, with the operators that accelerators have:

* relative positions and position tables are constants of the bucket, of fixed shape;
* the mask is added to attention scores: `MASKED` for padding, no infinity, which has no code in 16 bits;
* where a provider has one scale for a whole matrix, its rows get one size, and a Mul behind it undoes that;
* RMSNorm is LpNormalization, one operator instead of five, the squares of which would need more than 16 bits;
* GELU is one operator for the same reason.

Weights are int8, activations uint16 ("a16w8") or uint8 ("a8w8") with one scale for each tensor. The scales
come from sources padded as they will be.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, StaticQuantConfig, quantize
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

OPSET = 21  # brings 16-bit QuantizeLinear
IR_VERSION = 10  # the one that goes with it
MASKED = -100.0
ACTIVATION_TYPES = {"a16w8": QuantType.QUInt16, "a8w8": QuantType.QUInt8}

Keys = Mapping[str, int | float | str]
Arrays = Mapping[str, np.ndarray]
Feeds = Mapping[str, np.ndarray]


def static_graph(
    keys: Keys, tensors: Arrays, decoder_keys: Keys, length: int, *, kind: str
) -> onnx.ModelProto:
    """The float32 graph of a kind; `keys` and `tensors` are those of encoder.weights, in float32."""
    return _Builder(keys, tensors, decoder_keys, length, scales_rows=kind == "qnn-static").model()


def quantize_graph(model: onnx.ModelProto, sources: Sequence[Feeds], *, kind: str, scheme: str) -> bytes:
    """The graph with QuantizeLinear and DequantizeLinear around every operator, calibrated on `sources`.

    Of kind "qnn-static", a matrix has one scale, the only way that QNN multiplies one, and Sigmoid has the
    scale that it wants; of kind "static", a matrix has one for each output channel. Relu stays, though codes
    that begin at 0 would do its work: OpenVINO computes without codes, and was wrong by as much.
    """
    model = onnx.load_from_string(model.SerializeToString())  # the tools change what they get
    reader, activation_type = _Reader(sources), ACTIVATION_TYPES[scheme]
    if kind == "qnn-static":
        norms = [node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization"]
        config = get_qnn_qdq_config(
            model,
            reader,
            activation_type=activation_type,
            weight_type=QuantType.QInt8,
            keep_removable_activations=True,
            init_overrides={name: [{"quant_type": QuantType.QUInt8}] for name in norms},  # QNN has no other
        )
    else:
        config = StaticQuantConfig(
            reader,
            activation_type=activation_type,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=sorted({node.op_type for node in model.graph.node}),
            extra_options={"MinimumRealRange": 1e-4, "QDQKeepRemovableActivations": True},
        )
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "quantized.onnx")
        quantize(model, path, config)
        quantized = onnx.load(path)
    quantized.producer_name, quantized.producer_version = "edge_s2s_export", ""
    del quantized.metadata_props[:]
    kept = [entry for entry in quantized.opset_import if entry.domain in ("", "ai.onnx")]
    del quantized.opset_import[:]
    quantized.opset_import.extend(kept)
    onnx.checker.check_model(quantized)
    serialized: bytes = quantized.SerializeToString(deterministic=True)
    return serialized


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice to pre-process, which would only undo what `_Builder` does."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    def __init__(self, sources: Sequence[Feeds]):
        self._rest: Iterator[Feeds] = iter(sources)

    def get_next(self) -> Any:
        return next(self._rest, None)


class _Builder:
    """Nodes and constants of one graph; hidden states are [1, length, width] throughout."""

    def __init__(self, keys: Keys, tensors: Arrays, decoder_keys: Keys, length: int, *, scales_rows: bool):
        self.keys, self.tensors, self.decoder_keys, self.length = keys, tensors, decoder_keys, length
        self.scales_rows = scales_rows
        self.n_heads, self.d_head = int(keys["n_heads"]), int(keys["d_head"])
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def model(self) -> onnx.ModelProto:
        d_model, n_decoder_layers = int(self.keys["d_model"]), int(self.decoder_keys["n_layers"])
        x = self.embed("inputs_embeds")
        mask = self.mask("attention_mask")
        for i in range(int(self.keys["n_layers"])):
            x = self.residual(
                f"layers.{i}.self_attn", x, lambda name, y, i=i: self.attention(name, y, mask, i)
            )
            x = self.residual(f"layers.{i}.ffn", x, self.feed_forward)
        if self.keys["final_norm"]:
            x = self.norm("final_norm", x)
        outputs = []
        for i in range(n_decoder_layers):
            kv = f"decoder_layers.{i}.cross_attn.kv"
            inner = len(self.tensors[f"{kv}.weight"]) // 2
            for part, rows in (("k", slice(0, inner)), ("v", slice(inner, None))):
                y = self.linear(kv, x, rows, output=f"cross_{part}.{i}")
                outputs.append(
                    helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, [1, self.length, inner])
                )
        inputs = [
            helper.make_tensor_value_info("inputs_embeds", onnx.TensorProto.FLOAT, [1, self.length, d_model]),
            helper.make_tensor_value_info("attention_mask", onnx.TensorProto.FLOAT, [1, self.length]),
        ]
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "encoder", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model)
        return model

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        array = np.asarray(value)
        self.constants[name] = np.ascontiguousarray(
            array if array.dtype == np.int64 else array.astype(np.float32)
        )
        return name

    def embed(self, x: str) -> str:
        if self.keys["embedding_scale"] != 1.0:
            x = self.node(
                "Mul", [x, self.constant("embedding_scale", self.keys["embedding_scale"])], "scaled"
            )
        if self.keys["position"] == "table":
            table = np.zeros((1, self.length, int(self.keys["d_model"])), np.float32)  # padding has none
            rows = self.tensors["position_embedding.weight"][: self.length]
            table[0, : len(rows)] = rows
            x = self.node("Add", [x, self.constant("positions", table)], "positioned")
        return self.norm("embedding_norm", x) if self.keys["embedding_norm"] else x

    def mask(self, x: str) -> str:
        """0 for tokens and `MASKED` for padding, [1, 1, 1, length]."""
        x = self.node(
            "Reshape", [x, self.constant("mask.shape", np.array([1, 1, 1, self.length]))], "mask.rows"
        )
        x = self.node("Sub", [x, self.constant("mask.one", 1.0)], "mask.minus")
        return self.node("Mul", [x, self.constant("mask.value", -MASKED)], "mask.added")

    def residual(self, name: str, x: str, block: Any) -> str:
        """x + block(norm(x)), or with post-norm norm(x + block(x))."""
        norm = f"{name}_norm"
        if self.keys["norm_position"] == "post":
            return self.norm(norm, self.node("Add", [x, block(name, x)], f"{name}.sum"))
        return self.node("Add", [x, block(name, self.norm(norm, x))], f"{name}.sum")

    def norm(self, name: str, x: str) -> str:
        weight = self.tensors[f"{name}.weight"]
        if self.keys["norm"] == "layer":
            inputs = [x, self.constant(f"{name}.weight", weight)]
            inputs.append(self.constant(f"{name}.bias", self.tensors[f"{name}.bias"]))
            return self.node(
                "LayerNormalization", inputs, name, axis=-1, epsilon=float(self.keys["norm_eps"])
            )
        x = self.node("LpNormalization", [x], f"{name}.unit", axis=-1, p=2)
        return self.node("Mul", [x, self.constant(f"{name}.weight", weight * len(weight) ** 0.5)], name)

    def linear(self, name: str, x: str, rows: slice = slice(None), *, output: str | None = None) -> str:
        """Some rows of `<name>.weight` [out, in]: [1, length, in] -> [1, length, out]."""
        output = output or name
        weight = self.tensors[f"{name}.weight"][rows]
        steps = [("MatMul", "weight", weight.T)]
        if self.scales_rows:
            largest = np.abs(weight).max(axis=1).clip(min=1e-12)
            steps = [("MatMul", "weight", (weight / largest[:, None]).T), ("Mul", "scale", largest)]
        if self.keys["linear_bias"]:
            steps.append(("Add", "bias", self.tensors[f"{name}.bias"][rows]))
        for i, (op_type, part, value) in enumerate(steps):
            y = output if i == len(steps) - 1 else f"{output}.{op_type}"
            x = self.node(op_type, [x, self.constant(f"{output}.{part}", value)], y)
        return x

    def attention(self, name: str, x: str, mask: str, layer: int) -> str:
        inner = self.n_heads * self.d_head
        shape = self.constant("heads.shape", np.array([1, self.length, self.n_heads, self.d_head]))
        heads = {}
        for i, (part, order) in enumerate({"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}.items()):
            y = self.linear(f"{name}.qkv", x, slice(i * inner, (i + 1) * inner), output=f"{name}.{part}")
            y = self.node("Reshape", [y, shape], f"{y}.split")
            heads[part] = self.node("Transpose", [y], f"{y}.heads", perm=order)
        scores = self.node("MatMul", [heads["q"], heads["k"]], f"{name}.scores")
        if self.keys["position"] == "relative_bias":
            scores = self.node("Add", [scores, self.bias(layer)], f"{scores}.biased")
        scores = self.node("Add", [scores, mask], f"{scores}.masked")
        weights = self.node("Softmax", [scores], f"{name}.weights", axis=-1)
        y = self.node("MatMul", [weights, heads["v"]], f"{name}.mixed")
        y = self.node("Transpose", [y], f"{name}.rows", perm=[0, 2, 1, 3])
        y = self.node(
            "Reshape", [y, self.constant("inner.shape", np.array([1, self.length, inner]))], f"{name}.joined"
        )
        return self.linear(f"{name}.o", y)

    def bias(self, layer: int) -> str:
        """[1, n_heads, length, length]"""
        name = f"layers.{layer}.position_bias" if self.keys["position_bias_per_layer"] else "position_bias"
        table = self.tensors[name]  # [n_heads, 2 * reach + 1]
        positions = np.arange(self.length)
        distance = positions - positions[:, None]  # of the key after the query
        columns = (distance + table.shape[1] // 2).clip(0, table.shape[1] - 1)
        return self.constant(name, table[None, :, columns])

    def feed_forward(self, name: str, x: str) -> str:
        kind = str(self.keys["ffn"])
        d_ff = int(self.keys["d_ff"])
        if kind.startswith("gated_"):
            gate = self.linear(f"{name}.up", x, slice(0, d_ff), output=f"{name}.gate")
            up = self.linear(f"{name}.up", x, slice(d_ff, None))
            y = self.node("Mul", [self.activation(kind.removeprefix("gated_"), gate), up], f"{name}.gated")
        else:
            y = self.activation(kind, self.linear(f"{name}.up", x))
        return self.linear(f"{name}.down", y)

    def activation(self, kind: str, x: str) -> str:
        if kind == "silu":
            return self.node("Mul", [x, self.node("Sigmoid", [x], f"{x}.sigmoid")], f"{x}.silu")
        if kind == "relu":
            return self.node("Relu", [x], f"{x}.relu")
        approximate = {"gelu_tanh": "tanh", "gelu_erf": "none"}[kind]
        return self.node("Gelu", [x], f"{x}.gelu", approximate=approximate)
