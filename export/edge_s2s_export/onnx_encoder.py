"""The encoder graph: exported through optimum, quantized to int8, optimised once. The only file that knows optimum.

Facts behind the choices (measured with optimum-onnx 0.1, torch 2.13, onnxruntime 1.31):

* `optimum.exporters.onnx.export` writes the same bytes as `torch.onnx.export(..., dynamo=False)`; it changes the
  model's config on the way, so it gets a deep copy.
* int8 weights per output channel, only in MatMuls with a constant operand: attention itself stays float. Activations
  are uint8, one scale per tensor (DynamicQuantizeLinear), so a source must run alone and unpadded.
* The file is saved at level BASIC, where it has no vendor operators; the runtime loads it at EXTENDED.
"""

import copy
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic
from optimum.exporters.onnx import export
from optimum.exporters.onnx.base import OnnxConfig
from optimum.utils import DummyInputGenerator, NormalizedConfig

from .model_spec import EncoderWithCrossKV

OPSET = 17  # brings LayerNormalization; nothing later is needed
IR_VERSION = 8  # torch's own; newer ones are refused by ONNX Runtimes in use
BATCH, SEQUENCE = "batch", "sequence"  # names of the dynamic axes
TRACE_SHAPE = {"batch_size": 2, "sequence_length": 16}  # of the example input; the graph is dynamic


class _InputsEmbeds(DummyInputGenerator):  # type: ignore[misc]  # optimum ships no types
    """The example input of the trace. optimum's own generators cannot make `inputs_embeds`."""

    SUPPORTED_INPUT_NAMES = ("inputs_embeds",)

    def __init__(
        self, _task: str, normalized_config: Any, batch_size: int, sequence_length: int, **_unused: Any
    ):
        self.shape = (batch_size, sequence_length, normalized_config.hidden_size)

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
        traced, final = Path(folder, "traced.onnx"), Path(folder, "final.onnx")
        trace(encoder, traced)
        if dtype == "int8":
            prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
            quant_pre_process(traced, prepared, skip_symbolic_shape=True)
            quantize_dynamic(
                prepared,
                quantized,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
            )
            traced = quantized
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(final)
        ort.InferenceSession(traced, options, providers=["CPUExecutionProvider"])
        return _finish(onnx.load(final))


def trace(encoder: EncoderWithCrossKV, path: Path) -> None:
    """Writes the float32 graph as optimum and TorchScript make it."""
    encoder = copy.deepcopy(encoder)
    with warnings.catch_warnings():
        # TorchScript is deprecated in favour of dynamo, which writes source paths of this machine into the graph.
        warnings.simplefilter("ignore", DeprecationWarning)
        export(
            encoder,
            _EncoderOnnxConfig(encoder.config),
            path,
            opset=OPSET,
            input_shapes=TRACE_SHAPE,
            disable_dynamic_axes_fix=True,  # our own sizes are constants already
        )


def _finish(graph: onnx.ModelProto) -> bytes:
    """Drops what the tools left behind: operator sets that no node uses, notes about themselves."""
    used = {node.domain for node in graph.graph.node}
    kept = [entry for entry in graph.opset_import if entry.domain in used]
    del graph.opset_import[:]
    graph.opset_import.extend(kept)
    del graph.metadata_props[:]
    graph.ir_version = IR_VERSION
    graph.producer_name, graph.producer_version = "edge_s2s_export", ""
    onnx.checker.check_model(graph, full_check=True)
    serialized: bytes = graph.SerializeToString(deterministic=True)
    return serialized
