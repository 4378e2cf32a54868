"""The encoder graph: exported through optimum, optimised once, quantized. The only file that knows optimum.

* `optimum.exporters.onnx.export` writes the same bytes as `torch.onnx.export(..., dynamo=False)`. It changes
  the model's config on the way, so it gets a deep copy.
* The graph is saved at ONNX Runtime's level BASIC, where it has no vendor operators; the runtime loads it at
  EXTENDED. Shapes of intermediate results are written down: without them loading takes 2.5 times as long.
* int8 is done here, not by onnxruntime's `quantize_dynamic`, which gives all tokens of a source one scale for
  activations: one loud token costs the others their precision, and padding or a neighbour changes the answer.
  With a scale for each token the default model's logits are 15 times closer to float32 (KL 0.0003 instead of
  0.005 nats from the encoder alone) for 1.1 to 1.2 times the encoder's time.
"""

import copy
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import helper, numpy_helper
from optimum.exporters.onnx import export
from optimum.exporters.onnx.base import OnnxConfig
from optimum.utils import DummyInputGenerator, NormalizedConfig

from .model_spec import EncoderWithCrossKV
from .quantize import quantize_rows

OPSET = 17  # brings LayerNormalization; nothing later is needed
IR_VERSION = 8  # torch's own; newer ones are refused by ONNX Runtimes in use
BATCH, SEQUENCE = "batch", "sequence"  # names of the dynamic axes
TRACE_SHAPE = {"batch_size": 2, "sequence_length": 16}  # of the example input; the graph is dynamic


class _InputsEmbeds(DummyInputGenerator):  # type: ignore[misc]  # optimum ships no types
    """The example input of the trace. optimum's own generators cannot make `inputs_embeds`."""

    SUPPORTED_INPUT_NAMES = ("inputs_embeds",)

    def __init__(self, _task: str, config: Any, batch_size: int, sequence_length: int, **_unused: Any):
        self.shape = (batch_size, sequence_length, config.hidden_size)

    def generate(self, *_unused: Any, **_also_unused: Any) -> torch.Tensor:
        """float32 [batch, sequence, d_model]; the values do not matter."""
        return torch.ones(self.shape)


class _EncoderOnnxConfig(OnnxConfig):  # type: ignore[misc]
    NORMALIZED_CONFIG_CLASS = NormalizedConfig
    DUMMY_INPUT_GENERATOR_CLASSES = (_InputsEmbeds,)

    @property
    def inputs(self) -> Mapping[str, Mapping[int, str]]:
        """Name -> dynamic axes."""
        return {"inputs_embeds": {0: BATCH, 1: SEQUENCE}}

    @property
    def outputs(self) -> Mapping[str, Mapping[int, str]]:
        """Name -> dynamic axes; `cross_kv` is [batch, n_layers, 2, n_heads, sequence, d_head]."""
        return {"cross_kv": {0: BATCH, 4: SEQUENCE}, "mean_hidden": {0: BATCH}}


def export_encoder(encoder: EncoderWithCrossKV, *, dtype: str) -> bytes:
    """encoder.onnx as bytes; `dtype` is "int8" or "float32". The encoder is left as it was."""
    with tempfile.TemporaryDirectory() as folder:
        traced, optimised = Path(folder, "traced.onnx"), Path(folder, "optimised.onnx")
        trace(encoder, traced)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimised)
        ort.InferenceSession(traced, options, providers=["CPUExecutionProvider"])
        model = onnx.load(optimised)
    if dtype == "int8":
        _quantize(model.graph)
    return _finish(model)


def trace(encoder: EncoderWithCrossKV, path: Path) -> None:
    """Writes the float32 graph as optimum and TorchScript make it."""
    encoder = copy.deepcopy(encoder)
    with warnings.catch_warnings():
        # TorchScript is deprecated for dynamo, which would write source paths of this machine into the graph.
        warnings.simplefilter("ignore", DeprecationWarning)
        # transformers compares lengths in Python; the gates run the graph at several.
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean")
        export(
            encoder,
            _EncoderOnnxConfig(encoder.config),
            path,
            opset=OPSET,
            input_shapes=TRACE_SHAPE,
            disable_dynamic_axes_fix=True,  # our own sizes are constants already
        )


def _quantize(graph: onnx.GraphProto) -> None:
    """Replaces every MatMul with a constant weight by int8 arithmetic; attention's own MatMuls stay float.

    Per input x and token: s = max |x| / 127, q = uint8(round(x / s) + 128); per weight:
    y = float(MatMulInteger(q, w, zero point 128)) * s * w_scale, one w_scale per output channel.
    All rows must share the zero point, hence the symmetric codes. QuantizeLinear rounds half to even.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants: dict[str, np.generic | np.ndarray] = {
        "q8.zero_point": np.uint8(128),
        "q8.one": np.float32(1),
        "q8.step": np.float32(1 / 127),
        "q8.smallest": np.float32(1e-12),  # keeps a row of zeros from dividing by zero
    }
    nodes: list[onnx.NodeProto] = []
    quantized_inputs: set[str] = set()
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        (x, weight), (y,) = node.input, node.output
        if x not in quantized_inputs:
            quantized_inputs.add(x)
            nodes += [
                helper.make_node("Abs", [x], [f"{x}.abs"]),
                helper.make_node("ReduceMax", [f"{x}.abs"], [f"{x}.max"], axes=[-1], keepdims=1),
                helper.make_node("Max", [f"{x}.max", "q8.smallest"], [f"{x}.largest"]),
                helper.make_node("Mul", [f"{x}.largest", "q8.step"], [f"{x}.scale"]),
                helper.make_node("Div", [x, f"{x}.scale"], [f"{x}.steps"]),
                helper.make_node("QuantizeLinear", [f"{x}.steps", "q8.one", "q8.zero_point"], [f"{x}.q8"]),
            ]
        if (transposed := numpy_helper.to_array(weights[weight]).T).ndim != 2:
            raise AssertionError(f"MatMul weight {weight} has {transposed.ndim} dimensions")
        codes, scale = quantize_rows(np.ascontiguousarray(transposed))  # [out, in], [out]
        constants[f"{weight}.q8"] = np.ascontiguousarray(codes.T)  # [in, out]
        constants[f"{weight}.scale"] = scale
        nodes += [
            helper.make_node("MatMulInteger", [f"{x}.q8", f"{weight}.q8", "q8.zero_point"], [f"{y}.int32"]),
            helper.make_node("Cast", [f"{y}.int32"], [f"{y}.float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"{y}.float", f"{x}.scale"], [f"{y}.rows"]),
            helper.make_node("Mul", [f"{y}.rows", f"{weight}.scale"], [y]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )


def _finish(model: onnx.ModelProto) -> bytes:
    """Drops what the tools left behind, unused operator sets and notes about themselves, and adds shapes."""
    used = {node.domain for node in model.graph.node}
    kept = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.metadata_props[:]
    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version = "edge_s2s_export", ""
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized
