"""`manifest.json`: what a bundle says about its model, and what its other files must be.

It names the schema, describes the model and lists size and SHA-256 of every other file; its own `digest` is
its SHA-256 with 64 zeros in that place. The dataclasses below are its schema: exactly these keys and these
types; a field of `dimensions` or `generation` that has a default is left out where it has that value. What a
later version adds goes under `extensions`; a reader that does not know an extension named in
`extensions_required` refuses the bundle.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

from edge_s2s.errors import BundleError, UnsupportedVersionError
from edge_s2s.stored_zip import NAME
from edge_s2s.strict_json import OPTIONAL, build, parse_json, refuse, show, without_defaults
from edge_s2s.weights import FILE as WEIGHTS
from edge_s2s.weights import Key, complete_keys

RUNTIME_VERSION = "0.1.0"  # of edge_s2s; a bundle's min_runtime is compared with it
MANIFEST = "manifest.json"
GOLDEN = "golden.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_TABLE = "tokenizer.table"  # the same, compiled for the C core, which alone reads it
TARGET_TOKENIZER = "target_tokenizer.json"  # for results, where they have a vocabulary or pieces of their own
FloatKind: TypeAlias = Literal["float32", "float16"]
EncoderKind: TypeAlias = Literal["onnx", "native"]
ENCODER_KINDS: tuple[EncoderKind, ...] = ("onnx", "native")
"""Encoders that this version runs: an ONNX graph, and the C core with encoder.weights."""
KNOWN_EXTENSIONS = frozenset(("calibration", "careful_calibration", "checks", "drift"))
MAX_FILES = 64
MAX_FILE_SIZE = 1 << 40
MAX_MANIFEST_SIZE = 64 << 10  # a usual one has 4 KiB
PENALTY_RANGE = (1e-3, 1e3)  # of what scores are multiplied by
SAMPLING_RANGES = {  # of numbers, 1 or for min_p 0 being off
    "temperature": (1e-3, 1e3),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (1e-6, 1),
}
MAX_BIAS = 1e6  # of what is added to a score; scores are below 1e4
_SCHEMA = re.compile(r"edge-s2s-bundle/([1-9][0-9]{0,3})")
_SCHEMA_MAJOR = 1
_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})\.([0-9]{1,6})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
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
    source_vocab_size: int = dataclasses.field(default=0, metadata=OPTIONAL)
    """Tokens of the encoder's own embedding table; 0: it shares the decoder's."""

    @property
    def n_source_tokens(self) -> int:
        """Size of the vocabulary that sources are written in."""
        return self.source_vocab_size or self.vocab_size

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
    # A manifest has these only where they are not off.
    begin_suppress_tokens: tuple[int, ...] = dataclasses.field(default=(), metadata=OPTIONAL)
    encoder_repetition_penalty: float = dataclasses.field(default=1.0, metadata=OPTIONAL)
    encoder_no_repeat_ngram_size: int = dataclasses.field(default=0, metadata=OPTIONAL)
    exponential_decay_length_penalty: tuple[int, float] = dataclasses.field(
        default=(0, 1.0), metadata=OPTIONAL
    )
    sequence_bias: tuple[tuple[tuple[int, ...], float], ...] = dataclasses.field(
        default=(), metadata=OPTIONAL
    )
    do_sample: bool = dataclasses.field(default=False, metadata=OPTIONAL)
    temperature: float = dataclasses.field(default=1.0, metadata=OPTIONAL)
    top_k: int = dataclasses.field(default=50, metadata=OPTIONAL)  # transformers', too, where it samples
    top_p: float = dataclasses.field(default=1.0, metadata=OPTIONAL)
    min_p: float = dataclasses.field(default=0.0, metadata=OPTIONAL)
    typical_p: float = dataclasses.field(default=1.0, metadata=OPTIONAL)
    num_beam_groups: int = dataclasses.field(default=1, metadata=OPTIONAL)
    diversity_penalty: float = dataclasses.field(default=0.0, metadata=OPTIONAL)
    renormalize_logits: bool = dataclasses.field(default=False, metadata=OPTIONAL)
    prompt_lookup_num_tokens: int = dataclasses.field(default=0, metadata=OPTIONAL)

    @classmethod
    def from_keys(cls, keys: Mapping[str, Key], **others: object) -> Self:
        """The defaults that the `generation.*` keys of decoder.weights name; `others` are in no key."""
        values: dict[str, object] = {"suppress_tokens": (), "bad_words_ids": ()}
        for name in (field.name for field in dataclasses.fields(cls)):
            if (key := keys.get(f"generation.{name}")) is None:
                continue
            if name == "early_stopping":
                values[name] = _EARLY_STOPPING[int(key)]
            else:
                values[name] = _token(key) if name.endswith("_token_id") else key
        return cls(**values | others)  # type: ignore[arg-type]

    @property
    def rows_per_source(self) -> int:
        """Sequences of a source that are decoded at a time."""
        return max(self.num_beams, self.num_return_sequences)

    @property
    def reads_source_ids(self) -> bool:
        """Whether a rule depends on the tokens of the source."""
        return self.encoder_repetition_penalty != 1 or self.encoder_no_repeat_ngram_size > 0

    def without(self, keys: Mapping[str, Key]) -> dict[str, object]:
        """The values of which decoder.weights has no key."""
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if f"generation.{name}" not in keys}


@dataclass(frozen=True)
class TextRules:
    """How token ids become text where tokenizer.json cannot say it."""

    strip: bool = False
    """No white space around the text."""
    clean_up_spaces: bool = False
    """No blank before punctuation and contractions: transformers' `clean_up_tokenization_spaces`."""
    bad_bytes: Literal["run", "each", "drop"] = "run"
    """What becomes of byte tokens that are no UTF-8. run: U+FFFD for each byte of a run of byte tokens which
    is not UTF-8 as a whole, as in the tokenizers library. each: U+FFFD for each wrong byte, as in
    SentencePiece. drop: nothing, as in ByT5."""
    unknown_in_target: bool = dataclasses.field(default=False, metadata=OPTIONAL)
    """Characters that the tokenizer of sources does not know are looked up, a whole run at a time, among the
    tokens of results, which share its ids: as in Marian, with one vocabulary for two SentencePiece models."""


@dataclass(frozen=True)
class Languages:
    """How a model is told languages; none, by default."""

    ids: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Language code -> token id."""
    head: tuple[int | Literal["source", "target"], ...] = ()
    """What stands before the tokens of a text: token ids, and the language of source or target."""
    tail: tuple[int | Literal["source", "target"], ...] = ()
    """What stands behind them."""
    target_is_first_token: bool = False
    """The target language is the first new token: generate's `forced_bos_token_id`."""
    source: str | None = None
    """The source language unless one is given."""
    target: str | None = None
    """The target language unless one is given."""


@dataclass(frozen=True)
class Quantization:
    """How numbers are stored; `head_rescore` best logits are recomputed with float32 activations.

    `kv_cache` is the type of keys and values in the C core's sessions.
    """

    weights: Literal["int8", "float32"]
    encoder_weights: Literal["int8", "float32"]
    activations: str
    head_rescore: int
    kv_cache: FloatKind = dataclasses.field(default="float32", metadata=OPTIONAL)

    @classmethod
    def from_keys(
        cls, keys: Mapping[str, Key], *, encoder_weights: Literal["int8", "float32"], activations: str
    ) -> Self:
        """The quantization that the keys of decoder.weights name, and what they leave open."""
        weights: Literal["int8", "float32"] = "int8" if keys["weights_dtype"] == "int8" else "float32"
        is_narrow = complete_keys(keys)["kv_cache_dtype"] == "float16"
        kv_cache: FloatKind = "float16" if is_narrow else "float32"
        return cls(weights, encoder_weights, activations, int(keys["head_rescore"]), kv_cache)


@dataclass(frozen=True)
class Encoder:
    """A form of the encoder and the file that holds it; this version runs the kinds of `ENCODER_KINDS`."""

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
    text: TextRules = dataclasses.field(default=TextRules(), metadata=OPTIONAL)
    language_tokens: Languages = dataclasses.field(default=Languages(), metadata=OPTIONAL)
    files: Mapping[str, FileEntry] = dataclasses.field(default_factory=dict)
    extensions: Mapping[str, object] = dataclasses.field(default_factory=dict)
    extensions_required: tuple[str, ...] = ()

    def encoder(self, kind: EncoderKind | None = None) -> Encoder:
        """The encoder of this kind, or the first that this version runs; BundleError if there is none."""
        for encoder in self.encoders:
            if encoder.kind in ENCODER_KINDS and kind in (None, encoder.kind):
                return encoder
        kinds = ", ".join(show(encoder.kind) for encoder in self.encoders) or "none"
        expected = " or ".join(f'"{known}"' for known in ENCODER_KINDS) if kind is None else f'"{kind}"'
        hint = "a later edge_s2s reads it" if kind is None else "edge-s2s-export convert --encoder writes it"
        raise BundleError(MANIFEST, f"an encoder of kind {expected}", kinds, hint=hint)

    def to_bytes(self) -> bytes:
        """The file: JSON with sorted keys, in UTF-8."""
        return seal({"schema": f"edge-s2s-bundle/{_SCHEMA_MAJOR}", **self.to_document()})

    def to_document(self) -> dict[str, object]:
        """As JSON has it, without schema and digest; what is off and may be left out is left out."""
        present = without_defaults(self)
        document = {name: value for name, value in dataclasses.asdict(self).items() if name in present}
        sections = ("dimensions", "generation", "quantization")
        optional = {name: without_defaults(getattr(self, name)) for name in sections}
        return {**document, **optional}

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Self:
        """Checks the file completely, except what only the other files can tell; raises BundleError."""
        document = parse_json(data, MANIFEST, MAX_MANIFEST_SIZE)
        if not isinstance(document, dict):
            raise BundleError(MANIFEST, "a JSON object", show(document))
        _check_version(document)
        _check_digest(document, bytes(data))
        manifest = build(cls, {k: v for k, v in document.items() if k not in ("schema", "digest")}, MANIFEST)
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
                raise refuse(MANIFEST, where, "1..500 printable characters", text)
        if not NAME.fullmatch(self.name):
            raise refuse(MANIFEST, "name", f"a name of {NAME.pattern}", self.name)
        if not _VERSION.fullmatch(self.version):
            raise refuse(MANIFEST, "version", "a version such as 1.0.0", self.version)
        if not 1 <= self.dimensions.n_encoder_layers <= 256:
            raise refuse(MANIFEST, "dimensions.n_encoder_layers", "1..256", self.dimensions.n_encoder_layers)
        _check_tokens(self)
        _check_rules(self.generation)
        _check_languages(self.language_tokens, self.dimensions.vocab_size)
        for extension in self.extensions_required:
            if extension not in self.extensions or extension not in KNOWN_EXTENSIONS:
                raise BundleError(
                    MANIFEST, "no required extension that this version does not know", show(extension),
                    hint="a later edge_s2s reads it",
                )  # fmt: skip


def seal(document: Mapping[str, object]) -> bytes:
    """JSON bytes of a manifest with its `digest` set."""

    def dump(digest: str) -> bytes:
        text = json.dumps(
            {**document, "digest": digest}, allow_nan=False, ensure_ascii=False, indent=2, sort_keys=True
        )
        return f"{text}\n".encode()

    return dump(hashlib.sha256(dump("0" * 64)).hexdigest())


def _check_version(document: Mapping[str, object]) -> None:
    """Refuses a bundle for another runtime before anything else of it is interpreted."""
    schema, min_runtime = document.get("schema"), document.get("min_runtime")
    match = _SCHEMA.fullmatch(schema) if isinstance(schema, str) else None
    version = _VERSION.fullmatch(min_runtime) if isinstance(min_runtime, str) else None
    reader = f"edge_s2s {min_runtime} or later reads it" if version else "a later edge_s2s reads it"
    if match is None or int(match[1]) != _SCHEMA_MAJOR:
        expected = f"schema edge-s2s-bundle/{_SCHEMA_MAJOR}"
        if match is None:
            raise BundleError(MANIFEST, expected, show(schema))
        raise UnsupportedVersionError(MANIFEST, expected, show(schema), hint=reader)
    if version is None:
        raise refuse(MANIFEST, "min_runtime", "a version such as 1.0.0", min_runtime)
    ours = _VERSION.fullmatch(RUNTIME_VERSION)
    assert ours is not None
    if tuple(map(int, version.groups())) > tuple(map(int, ours.groups())):
        raise UnsupportedVersionError(
            MANIFEST, f"min_runtime {RUNTIME_VERSION} or earlier", show(min_runtime), hint=reader
        )


def _check_digest(document: Mapping[str, object], data: bytes) -> None:
    digest = document.get("digest")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest) or data.count(digest.encode()) != 1:
        raise refuse(MANIFEST, "digest", "64 hexadecimal digits found nowhere else", digest)
    actual = hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest()
    if actual != digest:
        raise BundleError(MANIFEST, f"digest {actual}", digest, hint="the file was changed or is damaged")


def _check_tokens(manifest: Manifest) -> None:
    generation, vocab_size = manifest.generation, manifest.dimensions.vocab_size
    ids = {
        "special_tokens.unk": [] if manifest.special_tokens.unk is None else [manifest.special_tokens.unk],
        "generation.suppress_tokens": generation.suppress_tokens,
        "generation.begin_suppress_tokens": generation.begin_suppress_tokens,
        **{f"generation.sequence_bias[{i}]": word for i, (word, _) in enumerate(generation.sequence_bias)},
        **{f"generation.bad_words_ids[{i}]": word for i, word in enumerate(generation.bad_words_ids)},
    }
    for where, tokens in ids.items():
        if not all(0 <= token < vocab_size for token in tokens):
            raise refuse(MANIFEST, where, f"token ids below vocab_size {vocab_size}", tokens)
    for where, words in (
        ("generation.bad_words_ids", generation.bad_words_ids),
        ("generation.sequence_bias", [word for word, _ in generation.sequence_bias]),
    ):
        if not all(words):
            raise refuse(MANIFEST, where, "words of at least one token", words)


def _check_rules(generation: GenerationDefaults) -> None:
    """The numbers that decoder.weights does not hold."""
    start, factor = generation.exponential_decay_length_penalty
    biases = [bias for _, bias in generation.sequence_bias]
    for name, value, smallest, largest in (
        ("encoder_repetition_penalty", generation.encoder_repetition_penalty, *PENALTY_RANGE),
        ("encoder_no_repeat_ngram_size", generation.encoder_no_repeat_ngram_size, 0, 65536),
        ("exponential_decay_length_penalty[0]", start, 0, 65536),
        ("exponential_decay_length_penalty[1]", factor, *PENALTY_RANGE),
        *((f"sequence_bias[{i}][1]", bias, -MAX_BIAS, MAX_BIAS) for i, bias in enumerate(biases)),
        *((name, getattr(generation, name), *bounds) for name, bounds in SAMPLING_RANGES.items()),
        ("top_k", generation.top_k, 0, (1 << 31) - 1),
        ("num_beam_groups", generation.num_beam_groups, 1, generation.num_beams),
        ("diversity_penalty", generation.diversity_penalty, 0, MAX_BIAS),
    ):
        if not smallest <= value <= largest:
            raise refuse(MANIFEST, f"generation.{name}", f"{smallest:g}..{largest:g}", value)


def _check_languages(languages: Languages, vocab_size: int) -> None:
    fixed = [part for part in languages.head + languages.tail if isinstance(part, int)]
    if wrong := [token for token in (*languages.ids.values(), *fixed) if not 0 <= token < vocab_size]:
        raise refuse(MANIFEST, "language_tokens", f"token ids below vocab_size {vocab_size}", wrong[0])
    for where, code in (("source", languages.source), ("target", languages.target)):
        if code is not None and code not in languages.ids:
            raise refuse(MANIFEST, f"language_tokens.{where}", "one of language_tokens.ids", code)
    for code in languages.ids:
        if not code or len(code) > 100 or not code.isprintable():
            raise refuse(MANIFEST, "language_tokens.ids", "codes of 1..100 printable characters", code)


def _check_files(manifest: Manifest) -> None:
    files = manifest.files
    if len(files) > MAX_FILES:
        raise BundleError(MANIFEST, f"at most {MAX_FILES} files", f"{len(files)}")
    for name, entry in files.items():
        if not NAME.fullmatch(name) or name.casefold() == MANIFEST:
            raise refuse(MANIFEST, "files", f"names of {NAME.pattern} other than {MANIFEST}", name)
        if not 0 <= entry.size <= MAX_FILE_SIZE:
            raise refuse(MANIFEST, f"files[{show(name)}].size", f"0..{MAX_FILE_SIZE}", entry.size)
        if not _SHA256.fullmatch(entry.sha256):
            raise refuse(MANIFEST, f"files[{show(name)}].sha256", "64 hexadecimal digits", entry.sha256)
    if len({name.casefold() for name in files}) != len(files):
        raise BundleError(MANIFEST, "names that differ in more than case", ", ".join(sorted(files)))
    manifest.encoder()
    for name in (WEIGHTS, TOKENIZER, GOLDEN, *(encoder.file for encoder in manifest.encoders)):
        if name not in files:
            raise refuse(MANIFEST, "files", f"an entry for {show(name)}", sorted(files))


def check_against_weights(manifest: Manifest, keys: Mapping[str, Key]) -> None:
    """What the manifest says about the decoder must be what the decoder reads in its own file."""
    generation = manifest.generation
    agreed = dataclasses.replace(
        manifest,
        prefix=str(keys["prefix"]),
        features=Features.from_keys(keys),
        dimensions=Dimensions.from_keys(keys, n_encoder_layers=manifest.dimensions.n_encoder_layers),
        special_tokens=SpecialTokens.from_keys(keys, unk=manifest.special_tokens.unk),
        generation=GenerationDefaults.from_keys(keys, **generation.without(keys)),
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
    raise refuse(MANIFEST, section, f"{show(expected[name])} as in {WEIGHTS}", found[name])


def _token(key: Key) -> int | None:
    return None if key == -1 else int(key)
