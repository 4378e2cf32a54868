"""`decoder.weights`: the decoder's dimensions, features, generation defaults and tensors in one flat file.

The format, complete. Little-endian, no padding but what is named here, anything else is an error.

    header   64 bytes   magic b"es2swts\\0" | u32 major = 1 | u32 minor 0..1 | u32 n_keys <= 256 |
                        u32 n_tensors <= 4096 | u64 file_size | u8[32] SHA-256 of the bytes 64..file_size
    keys     n_keys x 256 bytes       char[48] name | u32 type: 1 int, 2 float, 3 string | u32 length: 8, 8,
                        bytes of the string | u8[200] value: int64, float64, UTF-8; the rest is zero
    tensors  n_tensors x 128 bytes    char[64] name | u32 dtype: 1 float32, 2 int8 | u32 n_dims 1..4 |
                        u64[4] dims >= 1, unused 0 | u64 offset | u64 size_bytes | u64 zero
    data     tensors in table order, row-major, each at the next multiple of 64 (from the start of the file);
             gaps are zero; file_size is the end of the last tensor, rounded up to 64

Names are `[a-z0-9_.]+`, zero-padded, at least one zero; strictly ascending bytewise in both tables.
A newer major or minor version is refused. Keys are exactly these; those that start with `ext.` are ignored.
An optional key is in the file only if its value is not the default; the minor version is 1 if there is one:

    int      vocab_size 1..2^21   d_model 1..65536   d_ff 1..131072   n_layers 1..256   n_heads 1..1024
             d_head 1..1024   (n_heads * d_head <= 65536)   max_source_len, max_target_len 1..65536
             embedding_norm, final_norm, linear_bias, tied_lm_head, final_logits_bias,
             position_bias_per_layer 0..1   head_rescore 0..64 (<= vocab_size; 0 for float32)
             decoder_start_token_id 0..vocab_size-1   eos_token_id, pad_token_id -1 (none)..vocab_size-1
             generation. num_beams 1..64   num_return_sequences 1..num_beams
             generation. max_new_tokens 1..max_target_len   min_new_tokens 0..max_new_tokens
             generation. no_repeat_ngram_size 0..65536   early_stopping 0 false, 1 true, 2 never
             generation. forced_bos_token_id, forced_eos_token_id -1 (none)..vocab_size-1
    float    norm_eps 1e-12..1   embedding_scale 1e-6..1e6
             generation. length_penalty -100..100   repetition_penalty 1e-3..1e3
    string   weights_dtype int8 | float32   norm rms | layer   norm_position pre | post
             position relative_bias | table   ffn relu | gelu_tanh | gelu_erf | silu | gated_(the same four)
             prefix (task prefix of every input, 0..200 bytes, no zero byte)
    optional int     source_vocab_size 0..2^21, default 0: the encoder reads the decoder's embedding table
    optional string  kv_cache_dtype float32 | float16, default float32: how a session keeps keys and values;
                     float16 (IEEE 754 binary16) to the nearest, half to even, beyond its range +-65504

The tensors are exactly those of `expected_tensors`; a position table has a row for each of max_target_len
positions at least, and excludes position_bias_per_layer. Int8 values lie in [-127, 127], floats are finite,
scales are >= 0. The decoder computes x = sum(int8 row * activation) * scale[row] + bias[row], so weights are
[out, in].
"""

import hashlib
import math
import mmap
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_s2s.errors import BundleError, UnsupportedVersionError

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap
Key: TypeAlias = int | float | str
Tensor: TypeAlias = npt.NDArray[np.float32 | np.int8]

FILE = "decoder.weights"
ALIGNMENT = 64
MAX_KEYS = 256
MAX_TENSORS = 4096
MAX_POSITIONS = 65536  # columns of a position bias, rows of a position table
MAX_FILE_SIZE = 1 << 40

_MAGIC = b"es2swts\0"
_VERSION = (1, 1)
_HEADER = struct.Struct("<8s4IQ32s")
_KEY = struct.Struct("<48s2I200s")
_TENSOR = struct.Struct("<64s2I7Q")
_INT, _FLOAT, _STRING = 1, 2, 3
_KEY_TYPES: dict[int, type[Key]] = {_INT: int, _FLOAT: float, _STRING: str}
_DTYPES: Mapping[int, np.dtype[np.float32 | np.int8]] = {1: np.dtype("<f4"), 2: np.dtype("<i1")}
_NAME = re.compile(rb"[a-z0-9_.]+")

# Smallest and largest value of every number, both included.
_FLAG = (0, 1)
_LENGTH = (1, 65536)
_TOKEN_ID = (-1, (1 << 21) - 1)
INT_KEYS: Mapping[str, tuple[int, int]] = {
    "vocab_size": (1, 1 << 21),
    "d_model": (1, 65536),
    "d_ff": (1, 131072),  # 131072 * 127 * 127 is the last power of two whose int8 dot product fits int32
    "n_layers": (1, 256),  # more would not fit MAX_TENSORS
    "n_heads": (1, 1024),
    "d_head": (1, 1024),
    "max_source_len": _LENGTH,
    "max_target_len": _LENGTH,
    "embedding_norm": _FLAG,
    "final_norm": _FLAG,
    "linear_bias": _FLAG,
    "tied_lm_head": _FLAG,
    "final_logits_bias": _FLAG,
    "position_bias_per_layer": _FLAG,
    "head_rescore": (0, 64),
    "decoder_start_token_id": (0, _TOKEN_ID[1]),
    "eos_token_id": _TOKEN_ID,
    "pad_token_id": _TOKEN_ID,
    "generation.num_beams": (1, 64),
    "generation.num_return_sequences": (1, 64),
    "generation.max_new_tokens": _LENGTH,
    "generation.min_new_tokens": (0, 65536),
    "generation.no_repeat_ngram_size": (0, 65536),
    "generation.early_stopping": (0, 2),
    "generation.forced_bos_token_id": _TOKEN_ID,
    "generation.forced_eos_token_id": _TOKEN_ID,
    "source_vocab_size": (0, 1 << 21),
}
FLOAT_KEYS: Mapping[str, tuple[float, float]] = {
    "norm_eps": (1e-12, 1.0),
    "embedding_scale": (1e-6, 1e6),
    "generation.length_penalty": (-100.0, 100.0),
    "generation.repetition_penalty": (1e-3, 1e3),
}
_ACTIVATIONS = ("relu", "gelu_tanh", "gelu_erf", "silu")
STRING_KEYS: Mapping[str, tuple[str, ...] | None] = {  # None: free text
    "weights_dtype": ("int8", "float32"),
    "norm": ("rms", "layer"),
    "norm_position": ("pre", "post"),
    "position": ("relative_bias", "table"),
    "ffn": (*_ACTIVATIONS, *(f"gated_{name}" for name in _ACTIVATIONS)),
    "prefix": None,
    "kv_cache_dtype": ("float32", "float16"),
}
# Keys that a file has only if the value is not this one; each is also listed above, with its range.
OPTIONAL_KEYS: Mapping[str, Key] = {"source_vocab_size": 0, "kv_cache_dtype": "float32"}
_KEY_KINDS: Mapping[str, type[Key]] = {
    **dict.fromkeys(INT_KEYS, int),
    **dict.fromkeys(FLOAT_KEYS, float),
    **dict.fromkeys(STRING_KEYS, str),
}
_MIN_TENSORS_PER_LAYER = 9


class TensorSpec(NamedTuple):
    """What a tensor must be: dtype "float32" or "int8", and shape, where None is any size >= 1."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join('n' if n is None else str(n) for n in self.shape)}]"


@dataclass(frozen=True)
class Weights:
    """A checked `decoder.weights`. The arrays are read-only views of the buffer that was read."""

    keys: Mapping[str, Key]
    """All of them, optional ones too."""
    tensors: Mapping[str, Tensor]


def complete_keys(keys: Mapping[str, Key]) -> dict[str, Key]:
    """`keys` with the default of every optional key that is not among them."""
    return {**OPTIONAL_KEYS, **keys}


def expected_tensors(keys: Mapping[str, Key]) -> dict[str, TensorSpec]:
    """Name -> dtype and shape of every tensor that a decoder with these (valid) keys has.

    An int8 matrix has one float32 scale per output row beside it, in `<name>_scale`.
    """
    keys = complete_keys(keys)
    vocab_size, d_model, n_heads = (int(keys[name]) for name in ("vocab_size", "d_model", "n_heads"))
    inner = n_heads * int(keys["d_head"])
    specs = StackSpecs(keys)
    specs.matrix("embedding.weight", vocab_size, d_model)
    if source_vocab_size := int(keys["source_vocab_size"]):
        specs.matrix("encoder_embedding.weight", source_vocab_size, d_model)
    specs.optional_norm("embedding_norm")
    for i in range(int(keys["n_layers"])):
        layer = f"layers.{i}"
        specs.self_attention(layer)
        specs.norm(f"{layer}.cross_attn_norm")
        specs.linear(f"{layer}.cross_attn.q", inner, d_model)  # the encoder holds k and v
        specs.linear(f"{layer}.cross_attn.o", d_model, inner)
        specs.feed_forward(layer)
    specs.positions()
    specs.optional_norm("final_norm")
    if not keys["tied_lm_head"]:
        specs.matrix("lm_head.weight", vocab_size, d_model)
    if keys["final_logits_bias"]:
        specs.floats("final_logits_bias", vocab_size)
    return specs.tensors


class StackSpecs:
    """The tensors that a stack of layers with these keys has, collected by name in `tensors`."""

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self.tensors: dict[str, TensorSpec] = {}
        self._keys = keys

    def _int(self, name: str) -> int:
        return int(self._keys[name])

    def floats(self, name: str, *shape: int | None) -> None:
        """A float32 tensor."""
        self.tensors[name] = TensorSpec("float32", shape)

    def matrix(self, name: str, n_out: int, n_in: int) -> None:
        """A matrix in the stack's dtype; int8 comes with scales."""
        if self._keys["weights_dtype"] == "int8":
            self.tensors[name] = TensorSpec("int8", (n_out, n_in))
            self.floats(f"{name}_scale", n_out)
        else:
            self.floats(name, n_out, n_in)

    def linear(self, name: str, n_out: int, n_in: int) -> None:
        """A matrix and, if the stack has biases, one for each of its rows."""
        self.matrix(f"{name}.weight", n_out, n_in)
        if self._keys["linear_bias"]:
            self.floats(f"{name}.bias", n_out)

    def norm(self, name: str) -> None:
        """Weight and, of a layer norm, bias."""
        self.floats(f"{name}.weight", self._int("d_model"))
        if self._keys["norm"] == "layer":
            self.floats(f"{name}.bias", self._int("d_model"))

    def optional_norm(self, name: str) -> None:
        """A norm that the stack has if the key of its name says so."""
        if self._keys[name]:
            self.norm(name)

    def self_attention(self, layer: str) -> None:
        """Its norm and its matrices."""
        d_model, inner = self._int("d_model"), self._int("n_heads") * self._int("d_head")
        self.norm(f"{layer}.self_attn_norm")
        self.linear(f"{layer}.self_attn.qkv", 3 * inner, d_model)  # q rows, then k, then v
        self.linear(f"{layer}.self_attn.o", d_model, inner)

    def feed_forward(self, layer: str) -> None:
        """Its norm and its matrices; and the position bias of the layer, if each has its own."""
        d_model, d_ff = self._int("d_model"), self._int("d_ff")
        self.norm(f"{layer}.ffn_norm")
        n_up = 2 * d_ff if str(self._keys["ffn"]).startswith("gated_") else d_ff  # gate rows first
        self.linear(f"{layer}.ffn.up", n_up, d_model)
        self.linear(f"{layer}.ffn.down", d_model, d_ff)
        if self._keys["position_bias_per_layer"]:
            self.floats(f"{layer}.position_bias", self._int("n_heads"), None)

    def positions(self) -> None:
        """The table, or the bias that all layers share."""
        if self._keys["position"] == "table":  # row p is added to the embedding at position p
            self.floats("position_embedding.weight", None, self._int("d_model"))
        elif not self._keys["position_bias_per_layer"]:
            # in a decoder it is added to the score of the key `distance` before the query; the last column
            # holds for all beyond
            self.floats("position_bias", self._int("n_heads"), None)


def read_weights(data: Buffer, *, file: str = FILE) -> Weights:
    """Checks `data` completely, structure first, then meaning, and returns views of it.

    Raises BundleError, which names `file`. Nothing is copied, and nothing is allocated for a count
    before the bytes it claims have been seen.
    """
    minor, keys, tensors = read_table(data, file)
    _check_optional_keys(keys, minor, file)
    keys = complete_keys(keys)
    _check_keys(keys, file)
    n_layers = int(keys["n_layers"])
    if len(tensors) < _MIN_TENSORS_PER_LAYER * n_layers:  # before the list of all expected names is built
        raise BundleError(file, f"tensors of {n_layers} layers", f"{len(tensors)} tensors")
    check_tensors(expected_tensors(keys), tensors, file, positions=("max_target_len", keys))
    return Weights(keys, tensors)


def read_table(data: Buffer, file: str) -> tuple[int, dict[str, Key], dict[str, Tensor]]:
    """Minor version, keys and tensors of a file of this format, whatever they mean; BundleError."""
    view = memoryview(data).cast("B").toreadonly()
    minor, n_keys, n_tensors = _read_header(view, file)
    keys = _read_keys(view, n_keys, file)
    return minor, keys, _read_tensors(view, _HEADER.size + n_keys * _KEY.size, n_tensors, file)


def write_weights(keys: Mapping[str, Key], tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of a `decoder.weights` file; what `read_weights` would refuse raises BundleError here.

    Optional keys may be left out of `keys`.
    """
    keys = {
        name: value
        for name, value in keys.items()
        if name not in OPTIONAL_KEYS or value != OPTIONAL_KEYS[name]
    }
    written = write_table(keys, tensors, minor=int(not OPTIONAL_KEYS.keys().isdisjoint(keys)))
    read_weights(written)
    return written


def write_table(keys: Mapping[str, Key], tensors: Mapping[str, Tensor], *, minor: int = 0) -> bytes:
    """A file of this format; what its keys and tensors mean is not checked."""
    arrays: dict[str, Tensor] = {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    key_table = b"".join(_pack_key(name, keys[name]) for name in sorted(keys))
    tensor_table = b""
    end = first = _HEADER.size + len(key_table) + _TENSOR.size * len(arrays)
    for name, array in arrays.items():
        offset = _align(end)
        tensor_table += _pack_tensor(name, array, offset)
        end = offset + array.nbytes
    out = bytearray(_align(end))
    out[_HEADER.size : first] = key_table + tensor_table
    end = first
    for array in arrays.values():
        offset = _align(end)
        end = offset + array.nbytes
        out[offset:end] = array.data.cast("B")
    digest = hashlib.sha256(memoryview(out)[_HEADER.size :]).digest()
    _HEADER.pack_into(out, 0, _MAGIC, _VERSION[0], minor, len(keys), len(arrays), len(out), digest)
    return bytes(out)


def _read_header(view: memoryview, file: str) -> tuple[int, int, int]:
    if len(view) < _HEADER.size:
        raise BundleError(file, f"at least {_HEADER.size} bytes", f"{len(view)} bytes")
    magic, major, minor, n_keys, n_tensors, file_size, digest = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        raise BundleError(file, f"the magic {_MAGIC!r}", f"{magic!r}")
    if (major, minor) > _VERSION:
        raise UnsupportedVersionError(
            file, "format version {}.{}".format(*_VERSION), f"{major}.{minor}",
            hint="written by a newer exporter: needs a newer edge_s2s",
        )  # fmt: skip
    if major != _VERSION[0]:
        raise UnsupportedVersionError(file, "format version {}.{}".format(*_VERSION), f"{major}.{minor}")
    if not 1 <= n_keys <= MAX_KEYS:
        raise BundleError(file, f"1..{MAX_KEYS} keys", f"{n_keys}")
    if not 1 <= n_tensors <= MAX_TENSORS:
        raise BundleError(file, f"1..{MAX_TENSORS} tensors", f"{n_tensors}")
    if file_size != len(view) or file_size > MAX_FILE_SIZE:
        raise BundleError(file, f"{file_size} bytes, as its header says", f"{len(view)} bytes")
    tables = _HEADER.size + n_keys * _KEY.size + n_tensors * _TENSOR.size
    if tables > file_size:
        raise BundleError(file, f"{tables} bytes of header and tables", f"{file_size} bytes in all")
    if (actual := hashlib.sha256(view[_HEADER.size :]).digest()) != digest:
        raise BundleError(
            file, f"SHA-256 {digest.hex()} after the header", actual.hex(), hint="the file is damaged"
        )
    return minor, n_keys, n_tensors


def _read_name(field: bytes, last: str, what: str, file: str) -> str:
    name = field.rstrip(b"\0")
    if len(name) == len(field) or not _NAME.fullmatch(name):
        raise BundleError(file, f"a {what} name of [a-z0-9_.]+, zero-padded", f"{field!r}")
    if name <= last.encode():
        raise BundleError(file, f'{what} names in ascending order after "{last}"', f'"{name.decode()}"')
    return name.decode()


def _read_keys(view: memoryview, n_keys: int, file: str) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    name = ""
    for field, kind, length, value in _KEY.iter_unpack(
        view[_HEADER.size : _HEADER.size + n_keys * _KEY.size]
    ):
        name = _read_name(field, name, "key", file)
        if kind not in _KEY_TYPES:
            raise BundleError(file, f'key "{name}" of type 1, 2 or 3', f"type {kind}")
        if length > len(value) or (kind != _STRING and length != 8):
            raise BundleError(
                file, f'key "{name}" of 8 bytes or a string of <= {len(value)}', f"{length} bytes"
            )
        if any(value[length:]):
            raise BundleError(file, f'key "{name}" padded with zeros', "other bytes")
        if kind == _INT:
            keys[name] = int.from_bytes(value[:8], "little", signed=True)
        elif kind == _FLOAT:
            keys[name] = struct.unpack("<d", value[:8])[0]
        else:
            try:
                keys[name] = value[:length].decode()
            except UnicodeDecodeError as error:
                raise BundleError(file, f'key "{name}" in UTF-8', f"{value[:length]!r}") from error
            if 0 in value[:length]:
                raise BundleError(file, f'key "{name}" without zero bytes', f"{value[:length]!r}")
    return keys


def _check_optional_keys(keys: Mapping[str, Key], minor: int, file: str) -> None:
    """One content is one file: a default is not written, and minor version 1 says that something else is."""
    optional = keys.keys() & OPTIONAL_KEYS.keys()
    for name in sorted(optional):
        if keys[name] == OPTIONAL_KEYS[name]:
            raise BundleError(file, f'no key "{name}" for its default', repr(keys[name]))
    if minor != bool(optional):
        expected = f"minor version {int(bool(optional))} with {len(optional)} optional keys"
        raise BundleError(file, expected, f"{minor}")


def check_key_values(keys: Mapping[str, Key], names: Collection[str], file: str) -> None:
    """Raises BundleError unless `keys` are those of `names`, each of its type and in its range."""
    known = {name for name in keys if not name.startswith("ext.")}
    if missing := set(names) - known:
        raise BundleError(file, f'key "{min(missing)}"', "no such key")
    if unknown := known - set(names):
        raise BundleError(
            file, "the keys of format {}.{}".format(*_VERSION), f'an unknown key "{min(unknown)}"'
        )
    for name in names:
        kind = _KEY_KINDS[name]
        require_key(type(keys[name]) is kind, keys, name, f"of type {kind.__name__}", file)
        if kind is str:
            values = STRING_KEYS[name]
            require_key(values is None or keys[name] in values, keys, name, " or ".join(values or ()), file)
        else:
            low, high = {**INT_KEYS, **FLOAT_KEYS}[name]
            require_key(low <= float(keys[name]) <= high, keys, name, f"{low}..{high}", file)
    inner = int(keys["n_heads"]) * int(keys["d_head"])
    expected = f"n_heads * d_head <= 65536 (n_heads is {keys['n_heads']})"
    require_key(inner <= 65536, keys, "d_head", expected, file)
    if keys["position"] == "table":
        name = "position_bias_per_layer"
        require_key(keys[name] == 0, keys, name, "0 with a position table", file)


def require_key(condition: bool, keys: Mapping[str, Key], name: str, expected: str, file: str) -> None:
    """Raises BundleError for the key `name` unless the condition holds."""
    if not condition:
        raise BundleError(file, f'key "{name}": {expected}', repr(keys[name]))


def _check_keys(keys: Mapping[str, Key], file: str) -> None:
    check_key_values(keys, _KEY_KINDS, file)
    number = {name: int(keys[name]) for name in INT_KEYS}
    vocab_size = number["vocab_size"]
    for name in INT_KEYS:
        if name.endswith("token_id"):
            expected = f"a token below vocab_size {vocab_size}"
            require_key(number[name] < vocab_size, keys, name, expected, file)
    max_rescore = 0 if keys["weights_dtype"] == "float32" else vocab_size
    for name, limit in {
        "head_rescore": max_rescore,
        "generation.max_new_tokens": number["max_target_len"],
        "generation.min_new_tokens": number["generation.max_new_tokens"],
        "generation.num_return_sequences": number["generation.num_beams"],
    }.items():
        expected = f"<= {limit} with the other keys of this file"
        require_key(number[name] <= limit, keys, name, expected, file)


def _read_tensors(view: memoryview, start: int, n_tensors: int, file: str) -> dict[str, Tensor]:
    end = start + n_tensors * _TENSOR.size
    tensors: dict[str, Tensor] = {}
    name = ""
    for field, *layout in _TENSOR.iter_unpack(view[start:end]):
        name = _read_name(field, name, "tensor", file)
        tensors[name], end = _view_tensor(view, end, layout, name, file)
    if _align(end) != len(view):
        raise BundleError(file, f"{_align(end)} bytes, up to the last tensor", f"{len(view)} bytes")
    if any(view[end:]):
        raise BundleError(file, "zeros after the last tensor", "other bytes")
    return tensors


def _view_tensor(view: memoryview, end: int, layout: list[int], name: str, file: str) -> tuple[Tensor, int]:
    """The tensor that follows the byte `end`, and where it ends itself."""

    def require(condition: bool, expected: str, found: object) -> None:
        if not condition:
            raise BundleError(file, expected, str(found), tensor=name)

    dtype_code, n_dims, *dims, offset, size, zero = layout
    require(dtype_code in _DTYPES, "dtype 1 (float32) or 2 (int8)", f"dtype {dtype_code}")
    require(1 <= n_dims <= 4, "1..4 dimensions", n_dims)
    shape, unused = dims[:n_dims], dims[n_dims:]
    require(all(shape) and not any(unused), "dimensions >= 1, unused ones 0", dims)
    require(zero == 0, "zeros at the end of its entry", zero)
    dtype = _DTYPES[dtype_code]
    n_elements = math.prod(shape)  # Python's integers do not wrap
    require(size == n_elements * dtype.itemsize, f"{n_elements * dtype.itemsize} bytes for {shape}", size)
    require(offset == _align(end), f"offset {_align(end)}", offset)
    require(offset + size <= len(view), f"{size} bytes at offset {offset}", f"the end at {len(view)}")
    require(not any(view[end:offset]), "zeros in the gap before it", "other bytes")
    return np.frombuffer(view, dtype, n_elements, offset).reshape(shape), offset + size


def check_tensors(
    expected: Mapping[str, TensorSpec],
    tensors: Mapping[str, Tensor],
    file: str,
    *,
    positions: tuple[str, Mapping[str, Key]],
) -> None:
    """Raises BundleError unless there are exactly the expected tensors, with values that the format allows.

    A position table has as many rows as the key that `positions` names among its keys, or more.
    """
    if missing := expected.keys() - tensors.keys():
        name = min(missing)
        raise BundleError(file, str(expected[name]), "no such tensor", tensor=name)
    if unknown := tensors.keys() - expected.keys():
        raise BundleError(file, "only tensors that the keys call for", "one more", tensor=min(unknown))
    for name, spec in expected.items():
        array = tensors[name]
        found = TensorSpec(array.dtype.name, array.shape)
        sizes_match = len(spec.shape) == array.ndim and all(
            want == n if want is not None else n <= MAX_POSITIONS
            for want, n in zip(spec.shape, array.shape, strict=True)
        )
        if spec.dtype != found.dtype or not sizes_match:
            raise BundleError(file, str(spec), str(found), tensor=name)
        length, keys = positions
        if name == "position_embedding.weight" and len(array) < (n_min := int(keys[length])):
            raise BundleError(file, f"{n_min} rows or more, {length}", f"{len(array)}", tensor=name)
        low, high = array.min(), array.max()  # NaN and infinities come through
        if spec.dtype == "int8" and low == -128:
            raise BundleError(file, "values in [-127, 127]", "-128", tensor=name)
        if spec.dtype == "float32" and not (np.isfinite(low) and np.isfinite(high)):
            raise BundleError(file, "finite values", "a NaN or an infinity", tensor=name)
        if name.endswith("_scale") and low < 0:
            raise BundleError(file, "scales >= 0", f"{low}", tensor=name)


def _pack_key(name: str, value: Key) -> bytes:
    if type(value) is int and -(1 << 63) <= value < 1 << 63:
        return _KEY.pack(_name_field(name, 48), _INT, 8, struct.pack("<q", value))
    if type(value) is float:
        return _KEY.pack(_name_field(name, 48), _FLOAT, 8, struct.pack("<d", value))
    if type(value) is str and len(text := value.encode()) <= 200:
        return _KEY.pack(_name_field(name, 48), _STRING, len(text), text)
    raise BundleError(
        FILE, f'key "{name}" as int64, float or text of <= 200 bytes', f"{type(value)} {value!r}"
    )


def _pack_tensor(name: str, array: Tensor, offset: int) -> bytes:
    dtype_code = {np.dtype("float32"): 1, np.dtype("int8"): 2}.get(array.dtype)
    if dtype_code is None or not 1 <= array.ndim <= 4:
        found = f"{array.dtype} with {array.ndim} dimensions"
        raise BundleError(FILE, "float32 or int8 with 1..4 dimensions", found, tensor=name)
    dims = (*array.shape, *(0,) * (4 - array.ndim))
    return _TENSOR.pack(_name_field(name, 64), dtype_code, array.ndim, *dims, offset, array.nbytes, 0)


def _name_field(name: str, size: int) -> bytes:
    if len(field := name.encode()) >= size:
        raise BundleError(FILE, f"names shorter than {size} bytes", f'"{name}"')
    return field


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
