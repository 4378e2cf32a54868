"""Mutants of a bundle: damage in one part of it, behind sizes and hashes that are right again.

    data = mutate(contents, number)      # the same bytes for the same arguments

Only the kinds "bytes" and "zip" are not sealed again: they are damage to the container itself. Mutations are
made on what the file means (a JSON tree, protobuf fields, entries of the weights' tables), because random
bytes rarely come past the first check.
"""

import copy
import hashlib
import json
import random
import struct
from collections.abc import Callable, Mapping

from edge_s2s.manifest import seal
from edge_s2s.onnx_graph import OPERATORS
from edge_s2s.stored_zip import write_zip

Contents = Mapping[str, bytes]  # name -> bytes of every file, manifest.json first

MANIFEST, WEIGHTS, TOKENIZER, ONNX = "manifest.json", "decoder.weights", "tokenizer.json", "encoder.onnx"
POWERS = (3, 6, 7, 8, 15, 16, 31, 32, 53, 62, 63, 64)
NUMBERS = [*range(-3, 5), *(2**n + d for n in POWERS for d in (-1, 0, 1))]
VALUES: list[object] = [
    None, True, False, "", "a", "\u0000", "</s>", "\ud800", "x" * 300, "(a+)+$", 0.5, 1e308, -1.5, [], {},
    [[]], [None], {"Regex": "(a|a)*$"}, {"String": ""}, {"type": "Sequence"}, "../../etc/passwd", *NUMBERS,
]  # fmt: skip


def kind_of(number: int) -> str:
    """Which part of the bundle mutant `number` is damaged in."""
    return _ORDER[number * 7 % len(_ORDER)]  # 7: kinds take turns


def mutate(contents: Contents, number: int) -> bytes:
    """The .es2s of a mutant; damage that changes nothing is none."""
    kind = kind_of(number)
    whole, choose = b"".join(write_zip(contents)), random.Random(f"{kind} {number}")
    while (mutant := KINDS[kind][1](dict(contents), choose)) == whole:
        pass
    return mutant


def sealed(files: dict[str, bytes], document: dict[str, object] | None = None) -> bytes:
    """An .es2s of these files, with the manifest's sizes, hashes and digest set right."""
    document = json.loads(files[MANIFEST]) if document is None else document
    document.pop("digest", None)
    listed = document.get("files")
    if isinstance(listed, dict):
        for name, entry in listed.items():
            if name in files and isinstance(entry, dict):
                entry |= {"size": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
    try:
        manifest = seal(document)
    except (UnicodeEncodeError, ValueError):  # a surrogate, or a number that JSON lacks
        manifest = json.dumps(document).encode()
    others = {name: files[name] for name in sorted(files) if name != MANIFEST}
    return b"".join(write_zip({MANIFEST: manifest, **others}))


# ---- bytes and zip ----


def flip_bytes(files: dict[str, bytes], choose: random.Random) -> bytes:
    data = bytearray(b"".join(write_zip(files)))
    for _ in range(choose.choice([1, 1, 2, 8])):
        data[choose.randrange(len(data))] ^= 1 << choose.randrange(8)
    if choose.random() < 0.3:
        del data[choose.randrange(len(data)) :]
    return bytes(data)


def mutate_zip(files: dict[str, bytes], choose: random.Random) -> bytes:
    """Fields of its records, pieces of it doubled or dropped, and valid archives of other entries."""
    if choose.random() < 0.2:
        name = choose.choice(sorted(files))
        other = choose.choice(["x", name.upper(), name + ".", "zzz", name[:1]])
        files = {other if key == name else key: data for key, data in files.items()}
        if choose.random() < 0.5:
            files = dict(choose.sample(sorted(files.items()), choose.randrange(1, len(files) + 1)))
        return b"".join(write_zip(files))
    return damage_zip(b"".join(write_zip(files)), choose)


def damage_zip(archive: bytes, choose: random.Random) -> bytes:
    """Numbers in its records replaced, pieces doubled or removed."""
    data = bytearray(archive)
    end = len(data) - 22
    (directory,) = struct.unpack_from("<I", data, end + 16)
    places = [*range(directory, len(data))]
    places += [i for start in _local_headers(data) for i in range(start, start + 60)]
    for _ in range(choose.choice([1, 1, 2, 4])):
        size = choose.choice([1, 2, 4])
        at = min(choose.choice(places), len(data) - size)
        data[at : at + size] = (choose.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
    if choose.random() < 0.3:
        first, last = sorted(choose.sample(places, 2))
        piece = bytes(data[first:last][:200])
        at = choose.choice(places)
        data[at:at] = piece if choose.random() < 0.5 else bytes(len(piece))
    return bytes(data)


def _local_headers(data: bytearray) -> list[int]:
    return [i for i in range(len(data)) if data.startswith(b"PK\3\4", i)]


# ---- JSON ----


def mutate_json(document: object, choose: random.Random) -> object:
    """A copy with one to three values replaced, removed, doubled, renamed or moved."""
    document = copy.deepcopy(document)
    for _ in range(choose.choice([1, 1, 2, 3])):
        places = [*_places(document)]
        if not places:
            break
        parent, key = choose.choice(places)
        _, other = choose.choice(places)
        match choose.randrange(8):
            case 0 | 1 | 2:
                parent[key] = copy.deepcopy(choose.choice(VALUES))
            case 3 if type(parent[key]) in (int, float):
                parent[key] += choose.choice([-1, 1, 0.5, 1 << 31])
            case 4:
                del parent[key]
            case 5 if isinstance(parent, dict):
                parent[choose.choice(["type", "x", str(other), "pattern", "vocab"])] = parent.pop(key)
            case 6 if isinstance(parent, list):
                parent += copy.deepcopy(parent[:20])
            case _:
                source, name = choose.choice(places)
                if name in (source if isinstance(source, dict) else range(len(source))):
                    parent[key] = copy.deepcopy(source[name])
    return document


def _places(value: object) -> list[tuple[dict | list, object]]:
    found: list[tuple[dict | list, object]] = []
    waiting = [value]
    while waiting and len(found) < 20_000:
        parent = waiting.pop()
        if isinstance(parent, dict | list):
            keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))[:200]
            found += [(parent, key) for key in keys]
            waiting += [parent[key] for key in keys]
    return found


def mutate_manifest(files: dict[str, bytes], choose: random.Random) -> bytes:
    document = mutate_json(json.loads(files[MANIFEST]), choose)
    return sealed(files, document) if isinstance(document, dict) else sealed(files)


def json_file(name: str) -> Callable[[dict[str, bytes], random.Random], bytes]:
    def mutate_file(files: dict[str, bytes], choose: random.Random) -> bytes:
        document = mutate_json(json.loads(files[name]), choose)
        text = json.dumps(document, ensure_ascii=choose.random() < 0.5)
        return sealed({**files, name: text.encode("utf-8", "surrogatepass")})

    return mutate_file


def mutate_tokenizer(files: dict[str, bytes], choose: random.Random) -> bytes:
    """Half of them keep the vocabulary as it is, so that the library gets past it."""
    document = json.loads(files[TOKENIZER])
    part = choose.choice([*document])
    if part == "version":
        document = mutate_json(document, choose)
    else:
        holder = {part: document[part]}
        if part == "model" and choose.random() < 0.5:
            small = {key: document["model"][key] for key in document["model"].keys() - {"vocab", "merges"}}
            document["model"] |= mutate_json(dict(sorted(small.items())), choose)
        else:
            document |= mutate_json(holder, choose)
    text = json.dumps(document, ensure_ascii=choose.random() < 0.5)
    return sealed({**files, TOKENIZER: text.encode("utf-8", "surrogatepass")})


# ---- decoder.weights ----


def mutate_weights(files: dict[str, bytes], choose: random.Random) -> bytes:
    return sealed({**files, WEIGHTS: damage_weights(files[WEIGHTS], choose)})


def damage_weights(weights: bytes, choose: random.Random) -> bytes:
    """Numbers in header, keys, tensor entries and tensors replaced; the inner hash is right."""
    data = bytearray(weights)
    n_keys, n_tensors = struct.unpack_from("<2I", data, 16)
    if 64 + 256 * n_keys + 128 * n_tensors > len(data):
        raise ValueError("damaged before: nothing says where its tables end")
    tables_end = 64 + 256 * n_keys + 128 * n_tensors
    fields = [(8, 4), (12, 4), (16, 4), (20, 4), (24, 8)]
    in_key = ((0, 1), (48, 4), (52, 4), (56, 8))
    fields += [(64 + 256 * i + at, size) for i in range(n_keys) for at, size in in_key]
    entries = range(64 + 256 * n_keys, tables_end, 128)
    fields += [(at + 64 + 4 * i, 4) for at in entries for i in range(2)]
    fields += [(at + 72 + 8 * i, 8) for at in entries for i in range(7)]
    for _ in range(choose.choice([1, 1, 2, 3])):
        if choose.random() < 0.3:
            at, size = choose.randrange(tables_end, len(data) - 8), choose.choice([1, 4])
        else:
            at, size = choose.choice(fields)
        data[at : at + size] = (choose.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
    if choose.random() < 0.1:
        del data[choose.randrange(64, len(data)) :]
    return resealed_weights(bytes(data))


def resealed_weights(data: bytes) -> bytes:
    return data[:32] + hashlib.sha256(data[64:]).digest() + data[64:] if len(data) >= 64 else data


# ---- encoder.onnx ----

_MESSAGES = {  # message -> field -> message in it, of onnx.proto; other fields are bytes
    "model": {7: "graph", 8: "opset"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 15: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor"},
    "value": {2: "type"},
    "type": {1: "tensor_type"},
    "tensor_type": {2: "shape"},
    "shape": {1: "dim"},
    "opset": {}, "tensor": {}, "dim": {},
}  # fmt: skip


class Field:
    """A field of a message: a number, bytes, or a list of fields."""

    def __init__(self, number: int, wire: int, value: "int | bytes | list[Field]") -> None:
        self.number, self.wire, self.value = number, wire, value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
        shift += 7


def _varint(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def parse_fields(data: bytes, message: str) -> list[Field]:
    fields, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _read_varint(data, at)
            fields.append(Field(number, wire, value))
            continue
        size, at = (8 if wire == 1 else 4, at) if wire in (1, 5) else _read_varint(data, at)
        inner = _MESSAGES[message].get(number) if wire == 2 else None
        piece = data[at : at + size]
        fields.append(Field(number, wire, parse_fields(piece, inner) if inner else piece))
        at += size
    return fields


def write_fields(fields: list[Field]) -> bytes:
    out = b""
    for field in fields:
        out += _varint(field.number << 3 | field.wire)
        if isinstance(field.value, int):
            out += _varint(field.value)
        else:
            value = write_fields(field.value) if isinstance(field.value, list) else field.value
            out += (_varint(len(value)) if field.wire == 2 else b"") + value
    return out


def _all_fields(fields: list[Field]) -> list[tuple[list[Field], int]]:
    found, waiting = [], [fields]
    while waiting:
        parent = waiting.pop()
        found += [(parent, i) for i in range(len(parent))]
        waiting += [field.value for field in parent if isinstance(field.value, list)]
    return found


def mutate_onnx(files: dict[str, bytes], choose: random.Random, *, plain: bool = False) -> bytes:
    return sealed({**files, ONNX: damage_model(files[ONNX], choose, plain=plain)})


def damage_model(data: bytes, choose: random.Random, *, plain: bool = False) -> bytes:
    """Fields of the protobuf message changed, dropped, doubled, moved or hidden in another place.

    `plain`: as an author would who wants to come past the walker, with listed operators in odd graphs.
    """
    model = parse_fields(data, "model")
    places = _all_fields(model)
    small = [
        (parent, i)
        for parent, i in places
        if not isinstance(parent[i].value, bytes) or len(parent[i].value) < 200
    ]
    for _ in range(choose.choice([1, 1, 2, 4])):
        parent, i = choose.choice(small)
        if i >= len(parent):  # an earlier change dropped it
            continue
        field = parent[i]
        match choose.randrange(5 if plain else 9):
            case 0 if isinstance(field.value, int):
                field.value = choose.choice(NUMBERS)
            case 1 if len(parent) > 1:
                del parent[i]
            case 2:
                parent.insert(i, copy.copy(field))
            case 3 if isinstance(field.value, bytes):
                donor, j = choose.choice(small)
                if j < len(donor) and isinstance(donor[j].value, bytes):
                    field.value = donor[j].value
            case 5:
                field.number = choose.choice([0, 1, 5, 6, 7, 11, 13, 14, 15, 20, 22, 25, 536870911, 1 << 30])
            case 6:
                field.wire = choose.randrange(8)
            case 7:
                parent.insert(i, Field(choose.choice([13, 14, 15, 6, 11]), 0, 1))
            case _:
                _change_value(field, choose)
    data = write_fields(model)
    if not plain and choose.random() < 0.2:
        damaged = bytearray(data)
        for _ in range(choose.choice([1, 4])):
            damaged[choose.randrange(len(damaged))] = choose.randrange(256)
        data = bytes(damaged)
    return data


def _change_value(field: Field, choose: random.Random) -> None:
    if isinstance(field.value, int):
        field.value ^= 1 << choose.randrange(8)
    elif isinstance(field.value, bytes):
        operators = sorted(name.encode() for name in OPERATORS)
        if field.value in operators:
            field.value = choose.choice(operators)
        elif len(field.value) in (4, 8):
            size = len(field.value)
            field.value = (choose.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, "little")
        elif field.value:
            at = choose.randrange(len(field.value))
            field.value = field.value[:at] + bytes([choose.randrange(256)]) + field.value[at + 1 :]
    elif len(field.value) > 1:
        choose.shuffle(field.value)


Mutation = Callable[[dict[str, bytes], random.Random], bytes]
KINDS: dict[str, tuple[int, Mutation]] = {  # how many of 40, and how
    "bytes": (7, flip_bytes),
    "zip": (10, mutate_zip),
    "manifest": (7, mutate_manifest),
    "weights": (7, mutate_weights),
    "tokenizer": (3, mutate_tokenizer),
    "golden": (1, json_file("golden.json")),
    "onnx": (3, mutate_onnx),
    "graph": (2, lambda files, choose: mutate_onnx(files, choose, plain=True)),
}
_ORDER = [kind for kind, (share, _) in KINDS.items() for _ in range(share)]
