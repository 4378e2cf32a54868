"""The encoder on an accelerator: a graph for each bucket of lengths, whole on one device or not at all.

A source is padded to the smallest bucket that it fits. Graphs take and give, all in float32:

    inputs_embeds   [1, length, d_model], zeros behind the source
    attention_mask  [1, length], 1 for tokens and 0 for padding
    cross_k.<i>, cross_v.<i>   [1, length, n_heads * d_head] for decoder layer i

ONNX Runtime gives nodes that a provider refuses to the CPU and says nothing. Here that is an error with the
names of these nodes.
"""

import hashlib
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_s2s.bundle import Bundle
from edge_s2s.context_cache import FOLDER_SUFFIX, context_key, read_context, remove_context, write_context
from edge_s2s.devices import Device, find_device
from edge_s2s.encoder import SILENT, Floats, Shapes, check_nodes, keep_over_fork
from edge_s2s.errors import BundleError, ProviderError
from edge_s2s.manifest import Dimensions
from edge_s2s.onnx_graph import check_onnx
from edge_s2s.onnx_runtime import ort
from edge_s2s.providers import Provider

MAX_NAMED_NODES = 3  # of those that a provider refuses


def output_names(dims: Dimensions) -> list[str]:
    """In the order that `unpadded` wants."""
    return [f"cross_{part}.{i}" for i in range(dims.n_layers) for part in "kv"]


def padded(inputs_embeds: Floats, length: int) -> dict[str, Floats]:
    """A graph's inputs for a source, float32 [source_len, d_model]."""
    n_tokens, d_model = inputs_embeds.shape
    embeds = np.zeros((1, length, d_model), np.float32)
    embeds[0, :n_tokens] = inputs_embeds
    mask = (np.arange(length) < n_tokens).astype(np.float32)[np.newaxis]
    return {"inputs_embeds": embeds, "attention_mask": mask}


def unpadded(outputs: Sequence[Floats], n_tokens: int, dims: Dimensions) -> Floats:
    """Cross K/V [n_layers, 2 (K, V), n_heads, n_tokens, d_head] of a graph's outputs."""
    rows = np.stack([output[0, :n_tokens] for output in outputs])  # [2 * n_layers, n_tokens, inner]
    heads = rows.reshape(dims.n_layers, 2, n_tokens, dims.n_heads, dims.d_head)
    return np.ascontiguousarray(heads.transpose(0, 1, 3, 2, 4))


class _Bucket(NamedTuple):
    length: int
    session: ort.InferenceSession


class StaticEncoder:
    """The static encoder of an open bundle on a provider's device; any number of threads may share it.

    Everything is compiled here, or comes from `contexts`, the folder of what was compiled before; None is
    beside the bundle, if one may write there. ProviderError if the provider is not there, the bundle has no
    encoder for it, or a part of a graph would run elsewhere.
    """

    def __init__(
        self,
        bundle: Bundle,
        provider: Provider,
        options: Mapping[str, str],
        *,
        num_threads: int = 1,
        contexts: Path | None = None,
    ) -> None:
        files = _files(bundle, provider)
        device = find_device(provider, options)
        self._dims = bundle.manifest.dimensions
        self._names = output_names(self._dims)
        self.providers = (provider.ep_name,)
        self.device = device
        buckets = []
        for file in files:
            graph = bundle.read(file)
            check_onnx(graph, file)
            session = _compile(bytes(graph), file, device, num_threads, contexts, bundle.path)
            keep_over_fork(session)
            buckets.append(_Bucket(self._check(file, session), session))
        self._buckets = sorted(buckets, key=lambda bucket: bucket.length)
        if len({bucket.length for bucket in buckets}) != len(buckets):
            lengths = ", ".join(str(bucket.length) for bucket in self._buckets)
            raise BundleError(files[0], "a graph for each length", lengths)
        self.max_source_len = min(self._buckets[-1].length, self._dims.max_source_len)
        """Tokens of the longest source"""
        self._lock = threading.Lock()  # there is one device, and not every provider can be shared

    def cross_kv(self, inputs_embeds: Floats) -> Floats:
        """Encodes a source: float32 [source_len, d_model] to [n_layers, 2, n_heads, source_len, d_head].

        Raises ProviderError if the device fails.
        """
        length, session = next(bucket for bucket in self._buckets if bucket.length >= len(inputs_embeds))
        try:
            with self._lock:
                outputs = session.run(self._names, padded(inputs_embeds, length))
        except Exception as error:  # ONNX Runtime's many kinds have no base of their own
            raise ProviderError(f"{self.device.provider.name}: {str(error)[:300]}") from error
        return unpadded(outputs, len(inputs_embeds), self._dims)

    def _check(self, file: str, session: ort.InferenceSession) -> int:
        """Compares names, types and shapes with the manifest; the length."""
        dims = self._dims
        shapes = {node.name: node.shape for node in session.get_inputs()}
        length = (shapes.get("inputs_embeds") or [0, 0])[1]
        if not isinstance(length, int) or length < 1:
            raise BundleError(file, "input inputs_embeds of a fixed length", f"{length}")
        inputs: Shapes = {"inputs_embeds": [1, length, dims.d_model], "attention_mask": [1, length]}
        outputs: Shapes = {name: [1, length, dims.n_heads * dims.d_head] for name in self._names}
        check_nodes(file, "input", session.get_inputs(), inputs)
        check_nodes(file, "output", session.get_outputs(), outputs)
        return length


def _files(bundle: Bundle, provider: Provider) -> list[str]:
    """The graphs of the best kind for a provider that the bundle has."""
    encoders = bundle.manifest.encoders
    for kind in provider.encoder_kinds:
        if files := [encoder.file for encoder in encoders if encoder.kind == kind]:
            return files
    wanted, found = " or ".join(provider.encoder_kinds), ", ".join(encoder.kind for encoder in encoders)
    raise ProviderError(
        f"{provider.name}: expected an encoder of kind {wanted} in the bundle, found {found}; "
        "edge-s2s-export static adds one"
    )


def _compile(
    graph: bytes, file: str, device: Device, num_threads: int, contexts: Path | None, bundle_path: Path
) -> ort.InferenceSession:
    """A session, from a stored context if there is one that fits."""
    if not device.provider.has_contexts:
        return _open(graph, file, device, num_threads)
    folder = bundle_path.with_name(bundle_path.name + FOLDER_SUFFIX) if contexts is None else contexts
    name = f"{file}-{device.provider.name}"
    key = context_key(
        graph=hashlib.sha256(graph).hexdigest(),
        provider=device.provider.ep_name,
        version=device.version,
        onnxruntime=ort.__version__,
        device=f"{device.kind} {device.description}",
        options=device.options,
    )
    if (context := read_context(folder, name, key)) is not None:
        try:
            return _open(context, file, device, num_threads)
        except ProviderError:  # of another driver, which no version tells
            remove_context(folder, name, key)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "context.onnx")
        session = _open(graph, file, device, num_threads, context_path=path)
        if path.exists():
            try:
                write_context(folder, name, key, path.read_bytes())
            except OSError:
                if contexts is not None:
                    raise
    return session


def _open(
    model: bytes, file: str, device: Device, num_threads: int, *, context_path: Path | None = None
) -> ort.InferenceSession:
    """A session that runs whole on the device; ProviderError if it would not."""
    options = _session_options(device, num_threads, cpu_may_help=False)
    if context_path is not None:
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_file_path", str(context_path))
        options.add_session_config_entry("ep.context_embed_mode", "1")
    name = device.provider.name
    try:
        session = ort.InferenceSession(model, options, enable_fallback=False)
    except MemoryError:
        raise
    except Exception as error:  # ONNX Runtime's many kinds have no base of their own
        refused = _refused_nodes(model, device)
        why = f"it refuses {refused}" if refused else str(error)[:300]
        raise ProviderError(f"{name}: expected to run all of {file}; {why}") from error
    if refused := _nodes_elsewhere(session, device):
        raise ProviderError(f"{name}: expected to run all of {file}; it refuses {refused}")
    return session


def _refused_nodes(model: bytes, device: Device) -> str:
    """Names of the nodes that go to the CPU where it may help; "" if that does not work either."""
    try:
        options = _session_options(device, 1, cpu_may_help=True)
        return _nodes_elsewhere(ort.InferenceSession(model, options, enable_fallback=False), device)
    except Exception:  # the error that led here says more
        return ""


def _nodes_elsewhere(session: ort.InferenceSession, device: Device) -> str:
    """Names of nodes that do not run on the device; "" if all do."""
    ep_name = device.provider.ep_name
    if ep_name not in session.get_providers():
        return f"everything: it did not start, and {', '.join(session.get_providers())} would run"
    nodes = [
        node
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != ep_name
        for node in part.get_nodes()
    ]
    # What converts numbers at the graph's ends is a consequence; the operators are what matters.
    causes = [node for node in nodes if node.op_type not in ("QuantizeLinear", "DequantizeLinear")] or nodes
    named = ", ".join(f"{node.op_type} {node.name!r}" for node in causes[:MAX_NAMED_NODES])
    more = len(causes) - MAX_NAMED_NODES
    return f"{named} and {more} more" if more > 0 else named


def _session_options(device: Device, num_threads: int, *, cpu_may_help: bool) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "0" if cpu_may_help else "1")
    device.add_to(options)
    return options
