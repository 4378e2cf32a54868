"""A bundle: everything one model needs, as a directory or as one file `*.es2s`, each byte verified.

    with open_bundle("summarizer.es2s") as bundle:
        bundle.manifest.prefix              # what every input starts with
        bundle.read("encoder.onnx")         # memoryview of bytes whose SHA-256 the manifest names
        bundle.weights.tensors              # views into decoder.weights

`manifest.json` names the schema, describes the model and lists size and SHA-256 of every other file; its own
`digest` is its SHA-256 with 64 zeros in that place. The dataclasses below are its schema: exactly these keys
and these types. What a later version adds goes under `extensions`; a reader that does not know an extension
named in `extensions_required` refuses the bundle.

A directory holds the files as they are. Files that the manifest does not list are never opened. In the place
of a listed one a symbolic link is refused; a hard link is not, because stores share equal files that way.

An `.es2s` is a zip as `stored_zip` lays it out: manifest.json, then the other files in ascending order.

Opening hashes each file once, over the mapped bytes that are used later. A bundle must not change while open.
"""

import dataclasses
import errno
import hashlib
import json
import math
import mmap
import os
import re
import stat
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from edge_s2s.errors import BundleError
from edge_s2s.stored_zip import NAME, read_zip, write_zip
from edge_s2s.weights import FILE as WEIGHTS
from edge_s2s.weights import Key, Weights, read_weights

RUNTIME_VERSION = "0.1.0"  # of edge_s2s; a bundle's min_runtime is compared with it
SUFFIX = ".es2s"
MANIFEST = "manifest.json"
GOLDEN = "golden.json"
TOKENIZER = "tokenizer.json"
KNOWN_EXTENSIONS: frozenset[str] = frozenset()

MAX_FILES = 64
MAX_FILE_SIZE = 1 << 40
MAX_MANIFEST_SIZE = 64 << 10  # a usual one has 4 KiB
MAX_GOLDEN_SIZE = 256 << 10
MAX_GOLDEN_CASES = 16
MAX_JSON_DEPTH = 8

_SCHEMA = re.compile(r"edge-s2s-bundle/([1-9][0-9]{0,3})")
_SCHEMA_MAJOR = 1
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WIDE = re.compile(rb"[\xf0-\xff]|\\u[dD]")
_NOT_ASCII = re.compile(rb"[\x80-\xff]|\\u")
_JSON_MARK = re.compile(
    rb'"(?:[^"\\]|\\.)*+"?|[\[\]{},:]', re.DOTALL
)  # a string, or a mark outside of strings
# Bytes that json.loads and its hooks need at most for what starts with this character (CPython, 64 bits).
_JSON_BYTES = {b'"': 64, b"[": 128, b"]": 0, b"{": 256, b"}": 0, b",": 40, b":": 192}
_JSON_TYPES: Mapping[object, str] = {
    int: "an integer",
    float: "a number such as 1.0",
    str: "a string",
    bool: "true or false",
    types.NoneType: "null",
}
_EARLY_STOPPING: tuple[bool | Literal["never"], ...] = (
    False,
    True,
    "never",
)  # as decoder.weights numbers them


@dataclass(frozen=True)
class Features:
    """What kind of decoder it is: the keys of the same names in decoder.weights."""

    weights_dtype: str
    norm: str
    norm_position: str
    norm_eps: float
    position: str
    ffn: str
    embedding_scale: float
    embedding_norm: int
    final_norm: int
    linear_bias: int
    tied_lm_head: int
    final_logits_bias: int
    position_bias_per_layer: int

    @classmethod
    def from_keys(cls, keys: Mapping[str, Key]) -> Self:
        """The features that the keys of decoder.weights name."""
        return cls(**{field.name: keys[field.name] for field in dataclasses.fields(cls)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Dimensions:
    """Sizes of the decoder, and the number of encoder layers."""

    vocab_size: int
    d_model: int
    d_ff: int
    n_layers: int
    n_heads: int
    d_head: int
    max_source_len: int
    max_target_len: int
    n_encoder_layers: int

    @classmethod
    def from_keys(cls, keys: Mapping[str, Key], *, n_encoder_layers: int) -> Self:
        """The dimensions that the keys of decoder.weights name, and what they leave open."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in keys]
        return cls(**{name: int(keys[name]) for name in names}, n_encoder_layers=n_encoder_layers)


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids; None where the model has no such token."""

    decoder_start: int
    eos: int | None
    pad: int | None
    unk: int | None

    @classmethod
    def from_keys(cls, keys: Mapping[str, Key], *, unk: int | None) -> Self:
        """The special tokens that the keys of decoder.weights name, and what they leave open."""
        return cls(
            int(keys["decoder_start_token_id"]),
            _token(keys["eos_token_id"]),
            _token(keys["pad_token_id"]),
            unk,
        )


@dataclass(frozen=True)
class GenerationDefaults:
    """What `generate` does unless told otherwise; names and meanings are those of transformers' generate."""

    num_beams: int
    num_return_sequences: int
    max_new_tokens: int
    min_new_tokens: int
    early_stopping: bool | Literal["never"]
    length_penalty: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    forced_bos_token_id: int | None
    forced_eos_token_id: int | None
    suppress_tokens: tuple[int, ...]
    bad_words_ids: tuple[tuple[int, ...], ...]

    @classmethod
    def from_keys(
        cls,
        keys: Mapping[str, Key],
        *,
        suppress_tokens: tuple[int, ...] = (),
        bad_words_ids: tuple[tuple[int, ...], ...] = (),
    ) -> Self:
        """The defaults that the keys of decoder.weights name, and what they leave open."""
        return cls(
            num_beams=int(keys["generation.num_beams"]),
            num_return_sequences=int(keys["generation.num_return_sequences"]),
            max_new_tokens=int(keys["generation.max_new_tokens"]),
            min_new_tokens=int(keys["generation.min_new_tokens"]),
            early_stopping=_EARLY_STOPPING[int(keys["generation.early_stopping"])],
            length_penalty=float(keys["generation.length_penalty"]),
            repetition_penalty=float(keys["generation.repetition_penalty"]),
            no_repeat_ngram_size=int(keys["generation.no_repeat_ngram_size"]),
            forced_bos_token_id=_token(keys["generation.forced_bos_token_id"]),
            forced_eos_token_id=_token(keys["generation.forced_eos_token_id"]),
            suppress_tokens=suppress_tokens,
            bad_words_ids=bad_words_ids,
        )


@dataclass(frozen=True)
class Quantization:
    """How numbers are stored; `head_rescore` best logits are recomputed with float32 activations."""

    weights: Literal["int8", "float32"]
    encoder_weights: Literal["int8", "float32"]
    activations: str
    head_rescore: int

    @classmethod
    def from_keys(
        cls, keys: Mapping[str, Key], *, encoder_weights: Literal["int8", "float32"], activations: str
    ) -> Self:
        """The quantization that the keys of decoder.weights name, and what they leave open."""
        weights: Literal["int8", "float32"] = "int8" if keys["weights_dtype"] == "int8" else "float32"
        return cls(weights, encoder_weights, activations, int(keys["head_rescore"]))


@dataclass(frozen=True)
class Encoder:
    """A form of the encoder and the file that holds it; this version runs the kind "onnx"."""

    kind: str
    file: str


@dataclass(frozen=True)
class Licence:
    """SPDX expression of the weights, and one line for each data set they were trained on."""

    weights: str
    data: tuple[str, ...]


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 in hexadecimal of a file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`manifest.json`. `write_bundle` fills in `files`."""

    name: str
    version: str
    task: str
    prefix: str
    languages: tuple[str, ...]
    features: Features
    dimensions: Dimensions
    special_tokens: SpecialTokens
    generation: GenerationDefaults
    quantization: Quantization
    encoders: tuple[Encoder, ...]
    min_runtime: str
    licence: Licence
    created_by: str
    files: Mapping[str, FileEntry] = dataclasses.field(default_factory=dict)
    extensions: Mapping[str, object] = dataclasses.field(default_factory=dict)
    extensions_required: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The file: JSON with sorted keys, in UTF-8."""
        document = {"schema": f"edge-s2s-bundle/{_SCHEMA_MAJOR}", **dataclasses.asdict(self)}
        return seal(document)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Self:
        """Checks the file completely, except what only the other files can tell; raises BundleError."""
        document = parse_json(data, MANIFEST, MAX_MANIFEST_SIZE)
        if not isinstance(document, dict):
            raise BundleError(MANIFEST, "a JSON object", _show(document))
        _check_version(document)
        _check_digest(document, bytes(data))
        manifest = _build(cls, {k: v for k, v in document.items() if k not in ("schema", "digest")}, MANIFEST)
        assert isinstance(manifest, cls)
        manifest.check()
        _check_files(manifest)
        return manifest

    def check(self) -> None:
        """Raises BundleError for a value that no manifest can have, whatever the files are."""
        for where, text in {
            "name": self.name,
            "version": self.version,
            "task": self.task,
            "created_by": self.created_by,
            "quantization.activations": self.quantization.activations,
            "licence.weights": self.licence.weights,
            **{f"languages[{i}]": text for i, text in enumerate(self.languages)},
            **{f"licence.data[{i}]": text for i, text in enumerate(self.licence.data)},
        }.items():  # they are shown in terminals
            if not text or len(text) > 500 or not text.isprintable():
                raise _refuse(MANIFEST, where, "1..500 printable characters", text)
        if not NAME.fullmatch(self.name):
            raise _refuse(MANIFEST, "name", f"a name of {NAME.pattern}", self.name)
        if not _VERSION.fullmatch(self.version):
            raise _refuse(MANIFEST, "version", "a version such as 1.0.0", self.version)
        if not 1 <= self.dimensions.n_encoder_layers <= 256:
            raise _refuse(MANIFEST, "dimensions.n_encoder_layers", "1..256", self.dimensions.n_encoder_layers)
        _check_tokens(self)
        for extension in self.extensions_required:
            if extension not in self.extensions or extension not in KNOWN_EXTENSIONS:
                raise BundleError(
                    MANIFEST, "no required extension that this version does not know", _show(extension),
                    hint="a later edge_s2s reads it",
                )  # fmt: skip


@dataclass(frozen=True)
class GoldenCase:
    """An input and what greedy decoding with the bundle's defaults must begin with.

    `token_ids` are the whole answer, EOS included, or its clear beginning.
    """

    text: str
    input_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class _Golden:
    cases: tuple[GoldenCase, ...]


def seal(document: Mapping[str, object]) -> bytes:
    """JSON bytes of a manifest with its `digest` set."""

    def dump(digest: str) -> bytes:
        text = json.dumps(
            {**document, "digest": digest}, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True
        )
        return f"{text}\n".encode()

    return dump(hashlib.sha256(dump("0" * 64)).hexdigest())


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
            raise ValueError(f"the key {_show(name)} occurs twice")
        document[name] = value
    return document


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{_show(text)} is no finite number")
    return number


def _build(kind: object, value: object, file: str, where: str = "") -> object:
    """`value`, parsed JSON, as the type `kind`: a dataclass, tuple, mapping, union, literal or plain type."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        fields = {field.name: field.type for field in dataclasses.fields(kind)}
        if not isinstance(value, dict):
            raise _refuse(file, where, "an object", value)
        prefix = f"{where}." if where else ""
        if missing := fields.keys() - value.keys():
            raise BundleError(file, f'key "{prefix}{min(missing)}"', "no such key")
        if unknown := value.keys() - fields.keys():
            raise _refuse(file, where, "no key but those of its schema", min(unknown))
        return kind(
            **{name: _build(field, value[name], file, prefix + name) for name, field in fields.items()}
        )
    if origin is tuple:
        if not isinstance(value, list):
            raise _refuse(file, where, "a list", value)
        return tuple(_build(args[0], item, file, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _refuse(file, where, "an object", value)
        return {name: _build(args[1], item, file, f"{where}[{_show(name)}]") for name, item in value.items()}
    if not _is(value, kind):
        raise _refuse(file, where, _describe(kind), value)
    return value


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


def _check_version(document: Mapping[str, object]) -> None:
    """Refuses a bundle for another runtime before anything else of it is interpreted."""
    schema, min_runtime = document.get("schema"), document.get("min_runtime")
    match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    version = _VERSION.fullmatch(min_runtime) if isinstance(min_runtime, str) else None
    reader = f"edge_s2s {min_runtime} or later reads it" if version else "a later edge_s2s reads it"
    if match is None or int(match[1]) != _SCHEMA_MAJOR:
        hint = reader if match else None
        raise BundleError(MANIFEST, f"schema edge-s2s-bundle/{_SCHEMA_MAJOR}", _show(schema), hint=hint)
    if version is None:
        raise _refuse(MANIFEST, "min_runtime", "a version such as 1.0.0", min_runtime)
    ours = _VERSION.fullmatch(RUNTIME_VERSION)
    assert ours is not None
    if tuple(map(int, version.groups())) > tuple(map(int, ours.groups())):
        raise BundleError(
            MANIFEST, f"min_runtime {RUNTIME_VERSION} or earlier", _show(min_runtime), hint=reader
        )


def _check_digest(document: Mapping[str, object], data: bytes) -> None:
    digest = document.get("digest")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest) or data.count(digest.encode()) != 1:
        raise _refuse(MANIFEST, "digest", "64 hexadecimal digits found nowhere else", digest)
    actual = hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest()
    if actual != digest:
        raise BundleError(MANIFEST, f"digest {actual}", digest, hint="the file was changed or is damaged")


def _check_tokens(manifest: Manifest) -> None:
    generation, vocab_size = manifest.generation, manifest.dimensions.vocab_size
    ids = {
        "special_tokens.unk": [] if manifest.special_tokens.unk is None else [manifest.special_tokens.unk],
        "generation.suppress_tokens": generation.suppress_tokens,
        **{f"generation.bad_words_ids[{i}]": word for i, word in enumerate(generation.bad_words_ids)},
    }
    for where, tokens in ids.items():
        if not all(0 <= token < vocab_size for token in tokens):
            raise _refuse(MANIFEST, where, f"token ids below vocab_size {vocab_size}", tokens)
    if not all(generation.bad_words_ids):
        raise _refuse(
            MANIFEST, "generation.bad_words_ids", "words of at least one token", generation.bad_words_ids
        )


def _check_files(manifest: Manifest) -> None:
    files = manifest.files
    if len(files) > MAX_FILES:
        raise BundleError(MANIFEST, f"at most {MAX_FILES} files", f"{len(files)}")
    for name, entry in files.items():
        if not NAME.fullmatch(name) or name.casefold() == MANIFEST:
            raise _refuse(MANIFEST, "files", f"names of {NAME.pattern} other than {MANIFEST}", name)
        if not 0 <= entry.size <= MAX_FILE_SIZE:
            raise _refuse(MANIFEST, f"files[{_show(name)}].size", f"0..{MAX_FILE_SIZE}", entry.size)
        if not _SHA256.fullmatch(entry.sha256):
            raise _refuse(MANIFEST, f"files[{_show(name)}].sha256", "64 hexadecimal digits", entry.sha256)
    if len({name.casefold() for name in files}) != len(files):
        raise BundleError(MANIFEST, "names that differ in more than case", ", ".join(sorted(files)))
    if not any(encoder.kind == "onnx" for encoder in manifest.encoders):
        kinds = ", ".join(_show(encoder.kind) for encoder in manifest.encoders)
        raise BundleError(
            MANIFEST, 'an encoder of kind "onnx"', kinds or "none", hint="a later edge_s2s reads it"
        )
    for name in (WEIGHTS, TOKENIZER, GOLDEN, *(encoder.file for encoder in manifest.encoders)):
        if name not in files:
            raise _refuse(MANIFEST, "files", f"an entry for {_show(name)}", sorted(files))


def _check_against_weights(manifest: Manifest, keys: Mapping[str, Key]) -> None:
    """What the manifest says about the decoder must be what the decoder reads in its own file."""
    generation = manifest.generation
    agreed = dataclasses.replace(
        manifest,
        prefix=str(keys["prefix"]),
        features=Features.from_keys(keys),
        dimensions=Dimensions.from_keys(keys, n_encoder_layers=manifest.dimensions.n_encoder_layers),
        special_tokens=SpecialTokens.from_keys(keys, unk=manifest.special_tokens.unk),
        generation=GenerationDefaults.from_keys(
            keys, suppress_tokens=generation.suppress_tokens, bad_words_ids=generation.bad_words_ids
        ),
        quantization=Quantization.from_keys(
            keys,
            encoder_weights=manifest.quantization.encoder_weights,
            activations=manifest.quantization.activations,
        ),
    )
    if manifest == agreed:
        return
    expected, found = dataclasses.asdict(agreed), dataclasses.asdict(manifest)
    section = next(name for name in found if found[name] != expected[name])
    if isinstance(found[section], dict):
        name = next(name for name in found[section] if found[section][name] != expected[section][name])
        expected, found, section = expected[section], found[section], f"{section}.{name}"
    else:
        name = section
    raise _refuse(MANIFEST, section, f"{_show(expected[name])} as in {WEIGHTS}", found[name])


def _token(key: Key) -> int | None:
    return None if key == -1 else int(key)


def _refuse(file: str, where: str, expected: str, found: object) -> BundleError:
    return BundleError(file, f"{where}: {expected}" if where else expected, _show(found))


def _show(value: object) -> str:
    """A short text for any value, with every control character escaped."""
    text = ascii(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


class Bundle:
    """An open, verified bundle, made by `open_bundle`. Close it, or use it as a context manager.

    `kind` is "directory" or "es2s". Views that it handed out stay valid after `close`: a mapped file is
    released with the last of them.
    """

    def __init__(
        self,
        path: Path,
        kind: Literal["directory", "es2s"],
        manifest: Manifest,
        weights: Weights,
        files: Mapping[str, memoryview],
    ) -> None:
        self.path = path
        self.kind = kind
        self.manifest = manifest
        self.weights = weights
        self._files = files

    def read(self, name: str) -> memoryview:
        """The verified bytes of a listed file, read-only; KeyError if there is no such file."""
        return self._files[name]

    def golden(self) -> tuple[GoldenCase, ...]:
        """The cases of golden.json, checked against the model's dimensions."""
        document = parse_json(self.read(GOLDEN), GOLDEN, MAX_GOLDEN_SIZE)
        golden = _build(_Golden, document, GOLDEN)
        assert isinstance(golden, _Golden)
        if not 1 <= len(golden.cases) <= MAX_GOLDEN_CASES:
            raise BundleError(GOLDEN, f"1..{MAX_GOLDEN_CASES} cases", f"{len(golden.cases)}")
        dimensions = self.manifest.dimensions
        for i, case in enumerate(golden.cases):
            if any("\ud800" <= character <= "\udfff" for character in case.text):
                raise BundleError(GOLDEN, f"cases[{i}].text: Unicode text", "a lone surrogate")
            limits = {"input_ids": dimensions.max_source_len, "token_ids": dimensions.max_target_len}
            for name, limit in limits.items():
                ids: tuple[int, ...] = getattr(case, name)
                if not 1 <= len(ids) <= limit or not all(0 <= token < dimensions.vocab_size for token in ids):
                    expected = f"1..{limit} token ids below {dimensions.vocab_size}"
                    raise BundleError(GOLDEN, f"cases[{i}].{name}: {expected}", _show(ids))
        return golden.cases

    def close(self) -> None:
        """Lets go of the files; `read` then raises KeyError."""
        self._files = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Opens a directory or an .es2s and verifies all of it; raises BundleError for whatever is wrong."""
    path = Path(path)
    fd = _open(path, str(path))
    try:
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        if is_directory:
            files = {MANIFEST: _map_entry(MANIFEST, fd)}
        else:
            files = read_zip(_map(fd, str(path)), str(path))
            if next(iter(files)) != MANIFEST:
                raise BundleError(str(path), f"{MANIFEST} as its first entry", _show(next(iter(files))))
        manifest = Manifest.from_bytes(files[MANIFEST])
        if is_directory:
            files |= {name: _map_entry(name, fd) for name in manifest.files}
        elif list(files) != [MANIFEST, *sorted(manifest.files)]:
            listed = f"the files that {MANIFEST} lists, in ascending order"
            raise BundleError(str(path), listed, ", ".join(files))
    finally:
        os.close(fd)
    for name, entry in manifest.files.items():
        if len(files[name]) != entry.size:
            raise BundleError(name, f"{entry.size} bytes", f"{len(files[name])} bytes")
        if (actual := hashlib.sha256(files[name]).hexdigest()) != entry.sha256:
            raise BundleError(
                name, f"SHA-256 {entry.sha256}", actual, hint="the file is damaged or was changed"
            )
    weights = read_weights(files[WEIGHTS])
    _check_against_weights(manifest, weights.keys)
    return Bundle(path, "directory" if is_directory else "es2s", manifest, weights, files)


def _open(path: str | Path, file: str, *, flags: int = 0, dir_fd: int | None = None) -> int:
    try:  # without O_NONBLOCK, opening a FIFO would wait for a writer
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags, dir_fd=dir_fd)
    except OSError as error:
        is_link = error.errno == errno.ELOOP and flags & os.O_NOFOLLOW
        found = "a symbolic link" if is_link else str(error.strerror)
        raise BundleError(file, "a file or directory that can be read", found) from error


def _map_entry(name: str, dir_fd: int) -> memoryview:
    fd = _open(name, name, flags=os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        return _map(fd, name)
    finally:
        os.close(fd)


def _map(fd: int, file: str) -> memoryview:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(file, "a regular file", stat.filemode(status.st_mode))
    if status.st_size == 0:  # which cannot be mapped
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, status.st_size, access=mmap.ACCESS_READ))


def write_bundle(
    path: str | os.PathLike[str], manifest: Manifest, files: Mapping[str, bytes], *, replace: bool = False
) -> None:
    """Writes a bundle, as an .es2s if `path` ends so, else as a directory, and reads it back first.

    `path` then is the complete new bundle, or what it was before, whatever happens in between; only when a
    directory is replaced is there an instant without either, and a power cut then leaves the old one beside
    it under a hidden name. The bytes depend on the arguments alone. Sizes and hashes in the manifest are
    filled in here. Raises FileExistsError if there is something at `path`, unless it is a bundle of the
    same kind and `replace` is set, and BundleError if the result would not open.
    """
    path = Path(path)
    _check_target(path, replace)
    listed = {
        name: FileEntry(len(files[name]), hashlib.sha256(files[name]).hexdigest()) for name in sorted(files)
    }
    manifest = dataclasses.replace(manifest, files=listed)
    contents = {MANIFEST: manifest.to_bytes(), **{name: files[name] for name in listed}}
    Manifest.from_bytes(contents[MANIFEST])  # before any name becomes a path
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        if path.suffix == SUFFIX:
            _write_file(temporary, write_zip(contents))
        else:
            temporary.mkdir()
            for name, data in contents.items():
                _write_file(temporary / name, [data])
            _sync(temporary)
        with open_bundle(temporary) as written:
            written.golden()
        _check_target(path, replace)
        _move(temporary, path)
    finally:
        _remove(temporary)


def _check_target(path: Path, replace: bool) -> None:
    if not os.path.lexists(path):
        return
    if path.suffix == SUFFIX:
        same_kind = path.is_file()
    else:
        same_kind = (path / MANIFEST).is_file() and not path.is_symlink()
        same_kind = same_kind and all(file.is_file() for file in path.iterdir())
    if not (replace and same_kind):
        hint = "pass replace=True to replace it" if same_kind else "and it is no bundle of that kind"
        raise FileExistsError(f"{path} exists; {hint}")


def _write_file(path: Path, parts: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _move(temporary: Path, path: Path) -> None:
    """Puts the finished bundle in its place, and what was there out of the way."""
    old = temporary.with_name(f"{temporary.name}.old")
    if not path.is_dir():
        temporary.replace(path)
        _sync(path.parent)
        return
    path.rename(old)  # a directory cannot be renamed over another
    try:
        temporary.rename(path)
    except OSError:
        old.rename(path)
        raise
    try:
        _sync(path.parent)
    finally:
        _remove(old)


def _remove(path: Path) -> None:
    """Removes a bundle, if it is there; never what lies deeper than a bundle does."""
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
