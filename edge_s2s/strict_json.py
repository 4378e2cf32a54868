"""JSON of a bundle: read strictly and within bounded memory, then as dataclasses.

    document = parse_json(data, "manifest.json", MAX_MANIFEST_SIZE)
    manifest = build(Manifest, document, "manifest.json")

Whatever is wrong is a BundleError that says what was expected and what was found.
"""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Literal

from edge_s2s.errors import BundleError

MAX_JSON_DEPTH = 8
OPTIONAL: Mapping[str, bool] = {"optional": True}
"""Metadata of a dataclass field that a document may leave out, for its default."""

_WIDE = re.compile(rb"[\xf0-\xff]|\\u[dD]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]|\\u")
_JSON_MARK = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?|[\[\]{},:]', re.DOTALL
)  # a string, or a mark outside of strings
_JSON_BYTES = {b'"': 64, b"[": 128, b"]": 0, b"{": 256, b"}": 0, b",": 40, b":": 192}
_JSON_TYPES: Mapping[object, str] = {
    int: "an integer",
    float: "a number such as 1.0",
    str: "a string",
    bool: "true or false",
    types.NoneType: "null",
}


def parse_json(data: bytes | memoryview, file: str, max_size: int) -> object:
    """Strict JSON: UTF-8, unique keys, finite numbers, bounded size, depth and number of values.

    What the parser would allocate is bounded before it runs, by twice the size of the file + 1 MiB.
    """
    if len(data) > max_size:
        raise BundleError(file, f"at most {max_size} bytes", f"{len(data)} bytes")
    # Python stores all characters of a text as wide as its widest; the text exists beside the strings in it.
    width = 4 if _WIDE.search(data) else 2 if _NOT_ASCII.search(data) else 1
    needed, depth = width * len(data), 0
    for mark in _JSON_MARK.finditer(data):
        kind = mark[0][:1]
        needed += _JSON_BYTES[kind] + width * (len(mark[0]) - 1)
        depth += (kind in b"[{") - (kind in b"]}")
        if depth > MAX_JSON_DEPTH:
            raise BundleError(
                file, f"JSON of depth <= {MAX_JSON_DEPTH}", f"depth {depth} at byte {mark.start()}"
            )
        if needed > (1 << 20) + 2 * len(data):
            raise BundleError(
                file, "few enough values for a file of its size", f"too many at byte {mark.start()}"
            )
    try:
        parsed: object = json.loads(
            str(data, "utf-8"), object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite
        )
    except ValueError as error:  # not UTF-8, not JSON, or refused by a hook
        raise BundleError(file, "strict JSON in UTF-8", str(error)[:200]) from error
    return parsed


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document: dict[str, object] = {}
    for name, value in pairs:
        if name in document:
            raise ValueError(f"the key {show(name)} occurs twice")
        document[name] = value
    return document


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{show(text)} is no finite number")
    return number


def build(kind: object, value: object, file: str, where: str = "") -> object:
    """`value`, parsed JSON, as the type `kind`: a dataclass, tuple, mapping, union, literal or plain type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        fields = {field.name: field.type for field in dataclasses.fields(kind)}
        optional = {field.name for field in dataclasses.fields(kind) if field.metadata == OPTIONAL}
        if not isinstance(value, dict):
            raise refuse(file, where, "an object", value)
        prefix = f"{where}." if where else ""
        if missing := fields.keys() - optional - value.keys():
            raise BundleError(file, f'key "{prefix}{min(missing)}"', "no such key")
        if unknown := value.keys() - fields.keys():
            raise refuse(file, where, "no key but those of its schema", min(unknown))
        return kind(**{name: build(fields[name], value[name], file, prefix + name) for name in value})
    if origin is tuple:
        if not isinstance(value, list):
            raise refuse(file, where, "a list", value)
        kinds = [args[0]] * len(value) if args[1] is ... else args
        if len(value) != len(kinds):
            raise refuse(file, where, f"a list of {len(kinds)}", value)
        return tuple(build(kinds[i], item, file, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise refuse(file, where, "an object", value)
        return {name: build(args[1], item, file, f"{where}[{show(name)}]") for name, item in value.items()}
    if not _is(value, kind):
        raise refuse(file, where, _describe(kind), value)
    return value


def without_defaults(value: object) -> dict[str, object]:
    """A dataclass as a dict, without its optional fields that have their default: what `build` reads."""
    assert dataclasses.is_dataclass(value)
    return {
        field.name: item
        for field in dataclasses.fields(value)
        if not ((item := getattr(value, field.name)) == field.default and field.metadata == OPTIONAL)
    }


def _is(value: object, kind: object) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(_is(value, option) for option in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    return kind is object or type(value) is kind  # exactly: True is no int, 1 no float


def _describe(kind: object) -> str:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(map(_describe, typing.get_args(kind)))
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    return _JSON_TYPES[kind]


def refuse(file: str, where: str, expected: str, found: object) -> BundleError:
    """The error that names the place in `file`, what belongs there and, shortened, what is there."""
    return BundleError(file, f"{where}: {expected}" if where else expected, show(found))


def show(value: object) -> str:
    """A short text for any value, with every control character escaped."""
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"
