"""Attacks by decoder.weights, after the classes A to L of bugs in readers of model files (README.md)."""

import hashlib
import random
import struct
from collections.abc import Iterator
from pathlib import Path

from edge_s2s.weights import write_weights
from hostile import FILES, KEYS, MANIFEST, VALID, WEIGHTS, add_folder, flip, make_contents
from hostile_manifest import DIGEST
from hostile_zip import patch
from tiny_bundle import tiny_keys, tiny_tensors

VALID_WEIGHTS = FILES[WEIGHTS]
N_KEYS, N_TENSORS = struct.unpack_from("<2I", VALID_WEIGHTS, 16)
HEADER = {
    "magic": (0, "Q"),
    "major": (8, "I"),
    "minor": (12, "I"),
    "n keys": (16, "I"),
    "n tensors": (20, "I"),
    "file size": (24, "Q"),
}
KEY = {"type": (48, "I"), "length": (52, "I"), "value": (56, "Q"), "padding": (248, "Q")}
TENSOR = {
    "dtype": (64, "I"),
    "n dims": (68, "I"),
    "dim0": (72, "Q"),
    "dim1": (80, "Q"),
    "dim2": (88, "Q"),
    "dim3": (96, "Q"),
    "offset": (104, "Q"),
    "size": (112, "Q"),
    "zero": (120, "Q"),
}
KEY_AT = {name: 64 + 256 * i for i, name in enumerate(sorted(KEYS))}
TENSOR_AT = {name: 64 + 256 * N_KEYS + 128 * i for i, name in enumerate(sorted(tiny_tensors(KEYS)))}
DATA_AT = {name: struct.unpack_from("<Q", VALID_WEIGHTS, at + 104)[0] for name, at in TENSOR_AT.items()}
FIRST, LAST = min(TENSOR_AT), max(TENSOR_AT)
TABLES_END = DATA_AT[FIRST]  # of header, keys and tensor entries
MATRIX = "embedding.weight"  # int8 [20, 8]


def repair_hash(data: bytes) -> bytes:
    """`data` with the SHA-256 in its header set right."""
    return data[:32] + hashlib.sha256(data[64:]).digest() + data[64:] if len(data) >= 64 else data


def write_repaired(folder: Path, data: bytes) -> None:
    """Puts `data`, as long as the valid weights, into the bundle at `folder`, with every hash repaired."""
    data = repair_hash(data)
    manifest = VALID[MANIFEST].replace(sha256(VALID_WEIGHTS), sha256(data)).replace(DIGEST, b"0" * 64)
    manifest = manifest.replace(b"0" * 64, sha256(manifest))
    for name, changed in ((WEIGHTS, data), (MANIFEST, manifest)):
        with (folder / name).open("r+b") as file:  # in place: truncating first is ten times slower
            file.write(changed)


def mutants(n_mutants: int) -> Iterator[bytes]:
    """Weights with one to three numbers in tables or tensors replaced by tempting ones, hashes repaired."""
    choose = random.Random(n_mutants)
    tempting = [*range(5), *(2**n + d for n in (3, 6, 7, 8, 16, 31, 32, 62, 63, 64) for d in (-1, 0, 1))]
    for _ in range(n_mutants):
        data = bytearray(VALID_WEIGHTS)
        for _ in range(choose.choice([1, 1, 2, 3])):
            size = choose.choice([1, 4, 8])
            section = choose.choice([(16, TABLES_END), (TABLES_END, len(data))])
            at = choose.randrange(*section) // size * size
            data[at : at + size] = (choose.choice(tempting) % (1 << 8 * size)).to_bytes(size, "little")
        yield repair_hash(bytes(data))


def sha256(data: bytes) -> bytes:
    """In hexadecimal."""
    return hashlib.sha256(data).hexdigest().encode()


def add_weights(name: str, data: bytes) -> None:
    """An attack by the bytes of decoder.weights."""
    add_folder(f"weights, {name}", WEIGHTS, make_contents({**FILES, WEIGHTS: data}))


def in_header(**values: int) -> bytes:
    return patch(VALID_WEIGHTS, HEADER, 0, **values)


def in_key(key: str, **values: int) -> bytes:
    return patch(VALID_WEIGHTS, KEY, KEY_AT[key], **values)


def in_tensor(tensor: str, **values: int) -> bytes:
    return patch(VALID_WEIGHTS, TENSOR, TENSOR_AT[tensor], **values)


def overwrite(at: int, data: bytes) -> bytes:
    return VALID_WEIGHTS[:at] + data + VALID_WEIGHTS[at + len(data) :]


def exchange(first: int, second: int, size: int) -> bytes:
    """Two pieces of the file swapped."""
    changed = overwrite(first, VALID_WEIGHTS[second : second + size])
    return changed[:second] + VALID_WEIGHTS[first : first + size] + changed[second + size :]


def set_float(key: str, value: float) -> bytes:
    return overwrite(KEY_AT[key] + 56, struct.pack("<d", value))


def renamed(at: int, field: int, name: bytes) -> bytes:
    return overwrite(at, name.ljust(field, b"\0"))


WEIGHTS_ATTACKS = {
    # A: a count times a size wraps
    "n_tensors 2^32 - 1": in_header(n_tensors=-1),
    "n_keys 2^32 - 1": in_header(n_keys=-1),
    "n_tensors * 128 = 2^32": in_header(n_tensors=1 << 25),
    "n_keys * 256 = 2^32": in_header(n_keys=1 << 24),
    "n_tensors 0": in_header(n_tensors=0),
    "n_keys 0": in_header(n_keys=0),
    "n_tensors 4096": in_header(n_tensors=4096),
    "n_tensors 4097": in_header(n_tensors=4097),
    "n_keys 256": in_header(n_keys=256),
    "n_keys 257": in_header(n_keys=257),
    "a key read as tensor": in_header(n_keys=N_KEYS - 1),
    "a tensor read as key": in_header(n_keys=N_KEYS + 1),
    "a tensor less": in_header(n_tensors=N_TENSORS - 1),
    "a tensor more": in_header(n_tensors=N_TENSORS + 1),
    # B: lengths of names and strings
    "key name without end": renamed(KEY_AT["prefix"], 48, b"prefix".ljust(48, b"x")),
    "tensor name without end": renamed(TENSOR_AT[FIRST], 64, b"embedding".ljust(64, b"x")),
    "empty key name": renamed(KEY_AT[min(KEY_AT)], 48, b""),
    "empty tensor name": renamed(TENSOR_AT[FIRST], 64, b""),
    "key name with more after its end": renamed(KEY_AT["prefix"], 48, b"prefix\0x"),
    "key name in capitals": renamed(KEY_AT["prefix"], 48, b"Prefix"),
    "key name with a quote": renamed(KEY_AT["prefix"], 48, b'prefix"'),
    "tensor name with a path": renamed(TENSOR_AT[LAST], 64, b"../position_bias"),
    "tensor name not in UTF-8": renamed(TENSOR_AT[LAST], 64, b"position_\xff"),
    "string length 2^32 - 1": in_key("prefix", length=-1),
    "string length 201": in_key("prefix", length=201),
    "string length shorter than its text": in_key("prefix", length=3),
    "int of 4 bytes": in_key("d_model", length=4),
    "string with a zero byte": in_key("prefix", value=0x00414141),
    "bytes behind a value": in_key("d_model", padding=1),
    "string not in UTF-8": overwrite(KEY_AT["prefix"] + 56, b"\xff\xfe"),
    # C: products and sums that wrap
    "dims 2^32 x 2^32": in_tensor(MATRIX, dim0=1 << 32, dim1=1 << 32),
    "dims 2^63 x 2": in_tensor(MATRIX, dim0=1 << 63, dim1=2, size=0),
    "dims that wrap to the right size": in_tensor(MATRIX, dim0=(1 << 62) + 5, dim1=1 << 5),
    "size 2^64 - 1": in_tensor(MATRIX, size=-1),
    "four dims of 2^16": in_tensor(
        MATRIX, n_dims=4, dim0=1 << 16, dim1=1 << 16, dim2=1 << 16, dim3=1 << 16, size=0
    ),
    "float size that wraps": in_tensor("position_bias", dim0=(1 << 62) + 2),
    "offset + size wraps": in_tensor(MATRIX, offset=-64),
    # D: bytes outside the file, in the tables, or of another tensor
    "offset beyond the end": in_tensor(MATRIX, offset=1 << 40),
    "offset 0": in_tensor(MATRIX, offset=0),
    "offset in the tables": in_tensor(MATRIX, offset=TENSOR_AT[MATRIX]),
    "offset of another tensor": in_tensor(LAST, offset=DATA_AT[FIRST]),
    "offset one too large": in_tensor(MATRIX, offset=DATA_AT[MATRIX] + 1),
    "offset 64 too large": in_tensor(MATRIX, offset=DATA_AT[MATRIX] + 64),
    "last tensor beyond the end": VALID_WEIGHTS[:-64],
    "64 bytes more": VALID_WEIGHTS + bytes(64),
    "size one less": in_tensor(MATRIX, size=159),
    "size one more": in_tensor(MATRIX, size=161),
    "size in elements": in_tensor("position_bias", size=10),
    "size 0": in_tensor(MATRIX, size=0),
    "bytes in a gap": overwrite(DATA_AT[MATRIX] + 160, b"hidden"),
    "bytes after the end": VALID_WEIGHTS[:-1] + b"x",
    "bytes before the first tensor": overwrite(DATA_AT[FIRST] - 1, b"x"),
    "file size a byte less": in_header(file_size=len(VALID_WEIGHTS) - 1),
    "file size 0": in_header(file_size=0),
    "file size a byte more": in_header(file_size=len(VALID_WEIGHTS) + 1),
    "file size 2^64 - 1": in_header(file_size=-1),
    "size not rounded up": VALID_WEIGHTS[:-24],
    # E: an enumeration as an index
    "dtype 0": in_tensor(MATRIX, dtype=0),
    "dtype 3": in_tensor(MATRIX, dtype=3),
    "dtype -1": in_tensor(MATRIX, dtype=-1),
    "dtype of another tensor": in_tensor(MATRIX, dtype=1, size=640),
    "key type 0": in_key("d_model", type=0),
    "key type 4": in_key("d_model", type=4),
    "key type -1": in_key("d_model", type=-1),
    "an int as float": in_key("d_model", type=2),
    "an int as string": in_key("d_model", type=3),
    "a float as int": in_key("norm_eps", type=1),
    "a string as int": in_key("ffn", type=1, length=8),
    # F: narrowing to 32 bits
    "d_model 8 + 2^32": in_key("d_model", value=8 + (1 << 32)),
    "n_layers 2^31": in_key("n_layers", value=1 << 31),
    "dim 20 + 2^32": in_tensor(MATRIX, dim0=20 + (1 << 32)),
    "eos 2^32": in_key("eos_token_id", value=1 << 32),
    "n_dims 2 + 2^31": in_tensor(MATRIX, n_dims=2 + (1 << 31)),
    # G: zeros and odd shapes
    "dim 0": in_tensor(MATRIX, dim0=0, size=0),
    "no dims": in_tensor(MATRIX, n_dims=0),
    "five dims": in_tensor(MATRIX, n_dims=5),
    "one dim, the other kept": in_tensor(MATRIX, n_dims=1),
    "a third dim of 1": in_tensor(MATRIX, n_dims=3, dim2=1),
    "an unused dim set": in_tensor(MATRIX, dim3=1),
    "the entry's end set": in_tensor(MATRIX, zero=1),
    "transposed": in_tensor(MATRIX, dim0=8, dim1=20),
    "flattened": in_tensor(MATRIX, n_dims=1, dim0=160, dim1=0),
    "another shape of the same size": in_tensor(MATRIX, dim0=40, dim1=4),
    "d_model 0": in_key("d_model", value=0),
    "n_heads 0": in_key("n_heads", value=0),
    "d_head 0": in_key("d_head", value=0),
    "vocab 0": in_key("vocab_size", value=0),
    # I: negative numbers
    **{f"{key} -2": in_key(key, value=-2) for key, value in KEYS.items() if type(value) is int},
    # L: numbers larger than some array, in or against other keys
    "n_layers 3, tensors of 2": in_key("n_layers", value=3),
    "n_layers 1, tensors of 2": in_key("n_layers", value=1),
    "n_layers 256": in_key("n_layers", value=256),
    "n_layers 513": in_key("n_layers", value=513),
    "n_heads * d_head 65537": patch(in_key("n_heads", value=223), KEY, KEY_AT["d_head"], value=294),
    "num_beams 65": in_key("generation.num_beams", value=65),
    "head_rescore 21 of 20": in_key("head_rescore", value=21),
    "start token 20 of 20": in_key("decoder_start_token_id", value=20),
    "eos 20 of 20": in_key("eos_token_id", value=20),
    "max_new_tokens 17 of 16": in_key("generation.max_new_tokens", value=17),
    "return 5 of 4 beams": in_key("generation.num_return_sequences", value=5),
    "flag 2": in_key("final_norm", value=2),
    "vocab 21, 20 rows": in_key("vocab_size", value=21),
    "early_stopping 3": in_key("generation.early_stopping", value=3),
    # numbers that are none, or not finite
    **{
        f"{key} {value}": set_float(key, value)
        for key, good in KEYS.items()
        if type(good) is float
        for value in (float("nan"), float("inf"), -float("inf"), 0.0 if key == "norm_eps" else 1e300)
    },
    "a weight of -128": overwrite(DATA_AT[MATRIX] + 77, b"\x80"),
    "a NaN in a norm": overwrite(DATA_AT["final_norm.weight"] + 4, struct.pack("<f", float("nan"))),
    "an infinity in the bias": overwrite(DATA_AT["position_bias"], struct.pack("<f", float("inf"))),
    "a negative scale": overwrite(DATA_AT[f"{MATRIX}_scale"] + 8, struct.pack("<f", -1)),
    "a NaN scale": overwrite(DATA_AT[f"{MATRIX}_scale"] + 76, struct.pack("<f", float("nan"))),
    # words
    **{
        f"{key} unknown": overwrite(KEY_AT[key] + 56, b"xx")
        for key in ("weights_dtype", "norm", "position", "ffn")
    },
    "a template as activation": overwrite(KEY_AT["ffn"] + 52, struct.pack("<I", 15) + b"{{cycler.init}}"),
    # versions
    "wrong magic": in_header(magic=0),
    "major 0": in_header(major=0),
    "major 2": in_header(major=2),
    "minor 1": in_header(minor=1),
    "minor 2^32 - 1": in_header(minor=-1),
    "big-endian": VALID_WEIGHTS[:8] + VALID_WEIGHTS[8:64][::-1] + VALID_WEIGHTS[64:],
    # order
    "two keys exchanged": exchange(KEY_AT["d_ff"], KEY_AT["d_head"], 256),
    "two tensors exchanged": exchange(TENSOR_AT[FIRST], TENSOR_AT[f"{MATRIX}_scale"], 128),
    "a key twice": overwrite(KEY_AT["d_head"], VALID_WEIGHTS[KEY_AT["d_ff"] :][:256]),
    "a tensor twice": overwrite(TENSOR_AT[f"{MATRIX}_scale"], VALID_WEIGHTS[TENSOR_AT[FIRST] :][:128]),
    "an unknown key": renamed(KEY_AT["vocab_size"], 48, b"vocab_sizf"),
    "an unknown tensor": renamed(TENSOR_AT[LAST], 64, b"position_biat"),
    "an extension in place of a key": renamed(KEY_AT["ffn"], 48, b"ext.fn"),
    # length
    "63 bytes": VALID_WEIGHTS[:63],
    "the header alone": VALID_WEIGHTS[:64],
    "half": VALID_WEIGHTS[: len(VALID_WEIGHTS) // 2],
    "safetensors": struct.pack("<Q", 2) + b"{}",
    "GGUF": b"GGUF" + bytes(100),
}
for kind, data in WEIGHTS_ATTACKS.items():
    add_weights(kind, repair_hash(data))
add_weights("wrong hash", flip(VALID_WEIGHTS, 8 * 32))
add_weights("tensors exchanged under the old hash", exchange(DATA_AT[FIRST], DATA_AT[LAST], 32))

# Another decoder, valid in itself, under this manifest.
for kind, changes in {
    "another prefix": {"prefix": "summarize: "},
    "another vocabulary": {"vocab_size": 21},
    "another activation": {"ffn": "gated_silu"},
    "other beams": {"generation_num_beams": 5},
    "another start token": {"decoder_start_token_id": 3},
    "no EOS": {"eos_token_id": -1},
    "float32": {"weights_dtype": "float32", "head_rescore": 0},
    "one layer": {"n_layers": 1},
    "untied": {"tied_lm_head": 0},
}.items():
    other = tiny_keys(**changes)
    contents = make_contents({**FILES, WEIGHTS: write_weights(other, tiny_tensors(other))})
    add_folder(f"weights of another model, {kind}", MANIFEST, contents)
