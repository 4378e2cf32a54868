"""The encoder: embeddings in, cross-attention keys and values out, by ONNX Runtime.

A source runs alone, at its exact length: nothing is spent on padding, and no neighbour can change its answer,
whatever the graph does. Session settings that are silently wrong or slow otherwise:

* the optimisation level is pinned, because it changes bits and, below EXTENDED, x64quantprecision is ignored;
* `session.x64quantprecision` where int8 products saturate (x86 without VNNI), and only there: it costs 3.5x;
* `mlas.disable_kleidiai`, because on CPUs with SME that path quantizes differently and was seen to be wrong;
* no spinning: on two idle cores it saves nothing above the noise (a dialogue of 340 tokens takes 31 ms
  with and without), on busy ones it costs 133 ms instead of 48, and always a fifth more CPU time;
* the arena stays on: without it, peak memory for 1000 tokens is 100 to 280 MB higher.
"""

import ctypes
import functools
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_s2s.bundle import Bundle
from edge_s2s.errors import BundleError, ProviderError
from edge_s2s.onnx_graph import check_onnx
from edge_s2s.onnx_runtime import ort

Floats: TypeAlias = npt.NDArray[np.float32]

CPU = "CPUExecutionProvider"
Shapes: TypeAlias = dict[str, list[str | int | None]]  # a text is a dynamic axis, None any axis
SILENT = 4  # ONNX Runtime's log severity "fatal": what fails raises


class Encoded(NamedTuple):
    """What the encoder computes once for each source."""

    cross_kv: Floats
    """float32 [n_layers, 2 (K, V), n_heads, source_len, d_head], one pair for each decoder layer"""
    mean_hidden: Floats
    """float32 [d_encoder], mean of the last hidden states over the source"""


class Encoder:
    """The encoder of an open bundle; any number of threads may share it.

    `num_threads` work on one call. `providers` are execution providers in the order of preference; if one of
    them does not start, or the CPU is not among them and would have to help, ProviderError.
    """

    def __init__(
        self, bundle: Bundle, *, num_threads: int = 1, providers: Sequence[str] | None = None
    ) -> None:
        file = bundle.manifest.encoder("onnx").file
        requested = list(providers or [CPU])
        available = ort.get_available_providers()
        if missing := [provider for provider in requested if provider not in available]:
            known = ", ".join(available)
            raise ProviderError(f"asked for {', '.join(missing)}; this ONNX Runtime has {known}")
        options = _session_options(num_threads)
        if _products_saturate():
            options.add_session_config_entry("session.x64quantprecision", "1")
        if CPU not in requested:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        check_onnx(bundle.read(file), file)
        self._session = _open_session(bytes(bundle.read(file)), options, requested, file)
        keep_over_fork(self._session)
        self.providers = tuple(self._session.get_providers())
        if [*self.providers[: len(requested)]] != requested:
            raise ProviderError(f"asked for {', '.join(requested)}; got {', '.join(self.providers)}")
        dims = self._dims = bundle.manifest.dimensions
        self.max_source_len = dims.max_source_len
        """Tokens of the longest source"""
        self._file = file
        inputs: Shapes = {"inputs_embeds": ["batch", "sequence", dims.d_model]}
        outputs: Shapes = {
            "cross_kv": ["batch", dims.n_layers, 2, dims.n_heads, "sequence", dims.d_head],
            "mean_hidden": ["batch", None],
        }
        check_nodes(file, "input", self._session.get_inputs(), inputs)
        check_nodes(file, "output", self._session.get_outputs(), outputs)

    def cross_kv(self, inputs_embeds: Floats) -> Floats:
        """`Encoded.cross_kv` of a source, float32 [source_len, d_model]; `run` has more."""
        return self.run(inputs_embeds).cross_kv

    def run(self, inputs_embeds: Floats) -> Encoded:
        """Encodes one source, float32 [source_len, d_model].

        What a graph computes shows only now, so BundleError is possible here too.
        """
        dims, n_tokens = self._dims, len(inputs_embeds)
        feeds = {"inputs_embeds": inputs_embeds[np.newaxis]}
        with _failures_are_the_graphs(self._file, f"a graph that runs on {n_tokens} tokens"):
            cross_kv, mean_hidden = self._session.run(["cross_kv", "mean_hidden"], feeds)
        shape = (1, dims.n_layers, 2, dims.n_heads, n_tokens, dims.d_head)
        if cross_kv.shape != shape:
            raise BundleError(self._file, f"output cross_kv {[*shape]}", f"{[*cross_kv.shape]}")
        if len(mean_hidden) != 1:
            raise BundleError(self._file, "output mean_hidden of 1 source", f"{[*mean_hidden.shape]}")
        return Encoded(cross_kv[0], mean_hidden[0])


_sessions: "weakref.WeakSet[ort.InferenceSession]" = weakref.WeakSet()


def keep_over_fork(session: ort.InferenceSession) -> None:
    """Makes a forked process keep its copy of a session for good."""
    _sessions.add(session)


def _keep_sessions() -> None:
    """Adds references for good: in a forked process, which lacks its threads, a session's end hangs."""
    for session in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_sessions)


def check_nodes(file: str, kind: str, found: Sequence[ort.NodeArg], expected: Shapes) -> None:
    """Compares names, types and shapes of inputs or outputs."""
    with _failures_are_the_graphs(file, f"{kind}s named in UTF-8"):
        nodes = [(node.name, node.type, node.shape) for node in found]
    names = [name for name, _, _ in nodes]
    if sorted(names) != sorted(expected):
        raise BundleError(file, f"{kind}s {', '.join(expected)}", ", ".join(map(ascii, names))[:200])
    for name, dtype, sizes in nodes:
        shape = expected[name]
        fits = len(sizes) == len(shape) and all(
            want is None or (isinstance(size, str) if isinstance(want, str) else size == want)
            for want, size in zip(shape, sizes, strict=True)
        )
        if dtype != "tensor(float)" or not fits:
            wanted = f"{kind} {name} as tensor(float) {['n' if s is None else s for s in shape]}"
            raise BundleError(file, wanted, f"{dtype} {sizes}"[:200])


def _session_options(num_threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # plans for one shape; here every source has its own
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("mlas.disable_kleidiai", "1")
    return options


def _open_session(
    model: bytes, options: ort.SessionOptions, providers: list[str], file: str
) -> ort.InferenceSession:
    with _failures_are_the_graphs(file, "a graph that ONNX Runtime loads"):
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=False)


@contextmanager
def _failures_are_the_graphs(file: str, expected: str) -> Iterator[None]:
    """Raises what ONNX Runtime raises as BundleError, unless its words blame something else."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's many kinds have no base of their own
        message = str(error)
        if "allocate memory" in message or "bad_alloc" in message:
            raise MemoryError(message) from error
        if "fallback to CPU EP has been explicitly disabled" in message:
            raise ProviderError(f"without {CPU} among the providers, parts of {file} run nowhere") from error
        raise BundleError(file, expected, message[:300]) from error


@functools.cache
def _products_saturate() -> bool:
    """Whether uint8 x int8 products saturate at 16 bits on this CPU, found by multiplying the largest."""
    n_in, n_out = 64, 16
    session = _open_session(_probe_model(n_in, n_out), _session_options(1), [CPU], "the probe model")
    (product,) = session.run(None, {"a": np.full((1, n_in), 255, np.uint8)})  # int32 [1, n_out]
    return bool((product != 255 * 127 * n_in).any())


def _probe_model(n_in: int, n_out: int) -> bytes:
    """An ONNX model: y = MatMulInteger(a uint8 [1, n_in], 127 in int8 [n_in, n_out])."""

    def number(field: int, value: int) -> bytes:  # of protobuf, below 128
        return bytes([field << 3, value])

    def text(field: int, value: bytes) -> bytes:
        size = len(value)
        return bytes([field << 3 | 2, size & 127 | 128, size >> 7]) + value

    def tensor(name: bytes, dtype: int, n_columns: int) -> bytes:  # ValueInfoProto
        shape = text(1, number(1, 1)) + text(1, number(1, n_columns))
        return text(1, name) + text(2, text(1, number(1, dtype) + text(2, shape)))

    uint8, int8, int32 = 2, 3, 6
    weights = number(1, n_in) + number(1, n_out) + number(2, int8)
    weights += text(8, b"b") + text(9, bytes([127]) * (n_in * n_out))
    node = text(1, b"a") + text(1, b"b") + text(2, b"y") + text(4, b"MatMulInteger")
    graph = text(1, node) + text(2, b"probe") + text(5, weights)
    graph += text(11, tensor(b"a", uint8, n_in)) + text(12, tensor(b"y", int32, n_out))
    return number(1, 8) + text(7, graph) + text(8, number(2, 17))  # IR version 8, operator set 17
