"""Whether a model fits into the memory that is left, asked before the system has to end a process for it.

What a model needs is estimated from the sizes of its files. All of them are mapped and read: the system can
take that back, but would read it again for each token. ONNX Runtime is imported for the first graph; it keeps
copies of a graph's weights, as they were read and as its kernels want them, beside the file; the tokenizers
library makes tables of several times its file. A call has keys and values of a source and of each beam.
`reports/memory.json` compares the estimate with what was measured.
"""

from edge_s2s.bundle import Bundle
from edge_s2s.errors import InsufficientMemoryError
from edge_s2s.manifest import TARGET_TOKENIZER, TOKENIZER, Encoder, Manifest
from edge_s2s.weights import FILE as WEIGHTS

_GRAPH, _TOKENIZER = 3, 8  # times the file's size
_NATIVE_BASE = 7 << 20  # bytes: what is imported and made for the first model and the first call
_GRAPH_BASE = 40 << 20  # the same, with ONNX Runtime's code and pools
_MAX_SOURCE_LEN, _MAX_TARGET_LEN = 1024, 512  # tokens of the call; some models could read ten times as many


def needed_memory(bundle: Bundle, encoder: Encoder | None) -> int:
    """Bytes that a model of this bundle takes, with room for one call.

    Without an encoder: one on an accelerator, whose driver knows what it takes.
    """
    sizes = {name: entry.size for name, entry in bundle.manifest.files.items()}
    n_bytes = sizes[WEIGHTS] + sum(
        sizes[name] * (1 + _TOKENIZER) for name in (TOKENIZER, TARGET_TOKENIZER) if name in sizes
    )
    n_bytes += _cache(bundle.manifest)
    if encoder is None or encoder.kind == "native":
        return n_bytes + _NATIVE_BASE + (0 if encoder is None else sizes[encoder.file])
    return n_bytes + _GRAPH_BASE + sizes[encoder.file] * (1 + _GRAPH)


def _cache(manifest: Manifest) -> int:
    """Bytes of the keys and values of one call."""
    dims = manifest.dimensions
    n_target = manifest.generation.num_beams * min(dims.max_target_len, _MAX_TARGET_LEN)
    n_tokens = min(dims.max_source_len, _MAX_SOURCE_LEN) + n_target
    n_bytes = 2 if manifest.quantization.kv_cache == "float16" else 4
    return n_bytes * dims.n_layers * 2 * dims.n_heads * dims.d_head * n_tokens


def check_memory(bundle: Bundle, encoder: Encoder | None, left: int | None) -> None:
    """InsufficientMemoryError if less bytes are left than the model needs; nothing where nobody tells."""
    needed = needed_memory(bundle, encoder)
    if left is not None and left < needed:
        raise InsufficientMemoryError(str(bundle.path), needed, left)
