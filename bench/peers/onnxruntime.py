"""The best loop that can be written by hand on ONNX Runtime: greedy search over three graphs with IO binding.

Encoder once; the first step makes keys and values of the source, which stay where they are; every further
step takes and gives caches without a copy to numpy. Int8 weights, and only matrices that are constant: the
presets also quantize attention's products, whose operands are then quantized again at every step, and give a
tied table uint8 weights, which makes the largest product of a step the slow kind.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from bench.peers import MAX_NEW_TOKENS, Ids, Loaded
from bench.peers.onnx_graphs import ENCODER, FIRST, NEXT, copy_others, export


def prepare(checkpoint: Path, folder: Path) -> None:
    """Quantizes encoder, first and further step."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graphs = export(checkpoint, folder)
    copy_others(graphs, folder)
    for name in (ENCODER, FIRST, NEXT):
        model = onnx.load(graphs / name)
        _fold_transposes(model)
        quantize_dynamic(
            model,
            folder / name,
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def _fold_transposes(model: Any) -> None:
    """A tied table is transposed in the graph, so that it would not count as a constant."""
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Transpose" and node.input[0] in constants]:
        order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), None)
        table = np.ascontiguousarray(numpy_helper.to_array(constants[node.input[0]]).transpose(order))
        graph.initializer.append(numpy_helper.from_array(table, node.output[0]))
        graph.node.remove(node)


def load(folder: Path, threads: int, spinning: str = "1") -> Loaded:
    """Opens the three graphs."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    start_token, eos = config["decoder_start_token_id"], config["eos_token_id"]
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    encoder, first, further = (
        ort.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
        for name in (ENCODER, FIRST, NEXT)
    )

    def generate(sources: Ids, n_tokens: int | None, num_beams: int) -> Ids:
        assert num_beams == 1
        loop = _Loop(encoder, first, further, sources)
        tokens = np.full((len(sources), 1), start_token, np.int64)
        found, ended = [], np.zeros(len(sources), bool)
        for _ in range(n_tokens or MAX_NEW_TOKENS):
            logits = loop.step(tokens)
            if n_tokens:
                logits[:, eos] = -np.inf
            tokens = logits.argmax(-1, keepdims=True)
            found.append(tokens[:, 0])
            ended |= tokens[:, 0] == eos
            if not n_tokens and ended.all():
                break
        return [[int(token) for token in row] for row in np.stack(found, 1)]

    def encode(sources: Ids) -> float:
        start = time.perf_counter()
        _encode(encoder, sources)
        return time.perf_counter() - start

    return Loaded(generate, encode)


def _encode(encoder: ort.InferenceSession, sources: Ids) -> tuple[Any, Any]:
    input_ids = np.array(sources, np.int64)
    feeds = {"input_ids": input_ids, "attention_mask": np.ones_like(input_ids)}
    names = [node.name for node in encoder.get_inputs()]
    hidden = encoder.run_with_ort_values(
        None, {name: ort.OrtValue.ortvalue_from_numpy(feeds[name]) for name in names}
    )[0]
    return hidden, ort.OrtValue.ortvalue_from_numpy(feeds["attention_mask"])


class _Loop:
    """The state of one search: caches as they came out of the last step."""

    def __init__(
        self,
        encoder: ort.InferenceSession,
        first: ort.InferenceSession,
        further: ort.InferenceSession,
        sources: Ids,
    ) -> None:
        hidden, mask = _encode(encoder, sources)
        self._source = {"encoder_hidden_states": hidden, "encoder_attention_mask": mask}
        self._further = further
        self._first: ort.InferenceSession | None = first
        self._inputs = {node.name for node in further.get_inputs()}
        self._outputs = [node.name for node in further.get_outputs()]
        self._binding = further.io_binding()

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Logits float32 [batch, vocab_size] after tokens int64 [batch, 1]."""
        ids = ort.OrtValue.ortvalue_from_numpy(tokens)
        if self._first is not None:
            return self._first_step(ids)
        binding = self._binding
        binding.bind_ortvalue_input("input_ids", ids)
        return self._run(self._further, binding, self._outputs)

    def _first_step(self, ids: Any) -> np.ndarray:
        session = self._first
        assert session is not None
        self._first = None
        binding = session.io_binding()
        feeds = {"input_ids": ids, **self._source}
        for node in session.get_inputs():
            binding.bind_ortvalue_input(node.name, feeds[node.name])
        logits = self._run(session, binding, [node.name for node in session.get_outputs()])
        for name in self._inputs & self._source.keys():
            self._binding.bind_ortvalue_input(name, self._source[name])
        return logits

    def _run(self, session: ort.InferenceSession, binding: Any, outputs: list[str]) -> np.ndarray:
        binding.clear_binding_outputs()
        for name in outputs:
            binding.bind_output(name, "cpu")
        session.run_with_iobinding(binding)
        values = dict(zip(outputs, binding.get_outputs(), strict=True))
        for name, value in values.items():
            cache = name.replace("present", "past_key_values")
            if cache in self._inputs:
                self._binding.bind_ortvalue_input(cache, value)
        logits: np.ndarray = values["logits"].numpy()[:, -1]
        return logits
