"""Text to token ids and back, with a Hugging Face tokenizer whose parts come from an allow-list.

A bundle cannot bring a regular expression: matching time would be in its author's hands. What remains runs in
time proportional to the text (times its logarithm). Control tokens and added tokens in a text are plain text.
"""

import base64
import codecs
import copy
import difflib
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import tokenizers

from edge_s2s.charsmap import MAX_REPLACEMENT, Charsmap
from edge_s2s.errors import BundleError
from edge_s2s.manifest import TARGET_TOKENIZER, TOKENIZER, Languages, Manifest, TextRules
from edge_s2s.strict_json import parse_json
from edge_s2s.text_windows import reads_windows, windows
from edge_s2s.weights import Buffer

MAX_SIZE = 64 << 20  # the largest in use, of 250,000 tokens, has 17 MB
MAX_GROWTH = 18  # of a text by all replacements together, as by NFKC; each alone could double it

# Component -> allowed types. Where a type has a `pattern`, it is text: {"String": ...}.
ALLOWED = {
    "normalizer": {"Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "Precompiled", "Prepend",
                   "Replace", "Strip", "StripAccents"},
    "pre_tokenizer": {"Sequence", "ByteLevel", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace",
                      "WhitespaceSplit"},
    "model": {"BPE", "Unigram"},
    "post_processor": {"Sequence", "ByteLevel", "RobertaProcessing", "TemplateProcessing"},
    "decoder": {"Sequence", "ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip"},
}  # fmt: skip
_MEMBERS = ("normalizers", "pretokenizers", "processors", "decoders")  # of a Sequence
_NOT_COMPONENTS = {"version", "added_tokens", "truncation", "padding"}

# The values of "vocab" and "merges": text and numbers only, most of the file, and so not worth parsing.
# A quote that is not escaped begins or ends a string, so `"vocab"` here cannot be part of another string.
_FLAT = rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")'
_PAIRS = rb"\{" + _FLAT + rb"*+\}"  # {"token": id, ...}
_LISTS = rb"\[(?:" + _FLAT + rb"|\[" + _FLAT + rb"*+\])*+\]"  # ["a b", ...] or [["token", -1.5], ...]
_BULK = re.compile(rb'"(vocab|merges)"\s*+:\s*+(?:' + _PAIRS + rb"|" + _LISTS + rb")", re.DOTALL)

# A charsmap as the library writes it. A quote inside a string is escaped, so this cannot be part of one.
_PRECOMPILED = re.compile(
    rb'\{\s*"type"\s*:\s*"Precompiled"\s*,\s*"precompiled_charsmap"\s*:\s*"([^"\\]*)"\s*\}'
)
_NO_NORMALIZER = b'{"type":"Sequence","normalizers":[]}'

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANKS = re.compile("[ \t\n\r\u2581]*")

_CLEAN_UP = (
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
    (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
)  # fmt: skip
_CLEAN_UP_REACH = 8  # characters from a blank to what may still remove it
# ByteLevel writes each byte as one character: those that print as themselves, others from U+0100 on.
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTED]
_BYTE_OF_CHARACTER = {chr(byte): byte for byte in _PRINTED} | {
    chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)
}
_BAD_BYTES = {"each": "edge_s2s.each", "drop": "ignore"}  # error handlers of bytes.decode


def open_tokenizers(manifest: Manifest, read: Callable[[str], Buffer]) -> tuple["Tokenizer", "Tokenizer"]:
    """The tokenizers of a bundle for sources and for results, mostly one; `read` gets the name of a file."""
    unk_id = manifest.special_tokens.unk
    target: Tokenizer | None = None
    if TARGET_TOKENIZER in manifest.files:
        vocab_size = manifest.dimensions.vocab_size
        target = Tokenizer(read(TARGET_TOKENIZER), vocab_size=vocab_size, unk_id=unk_id, rules=manifest.text)
    source = Tokenizer(
        read(TOKENIZER),
        vocab_size=manifest.dimensions.n_source_tokens,
        prefix=manifest.prefix,
        unk_id=unk_id,
        rules=manifest.text,
        languages=manifest.language_tokens,
        target=target,
    )
    return source, source if target is None else target


class Tokenizer:
    """The tokenizer of a bundle; immutable, shared by any number of threads.

    `data` are the verified bytes of tokenizer.json, `prefix` the task prefix that every text gets. Pieces
    beyond `vocab_size` are words that the model does not know: `unk_id`. `rules` say how ids become text.
    `target` is the tokenizer of results, if it is another one.
    """

    def __init__(
        self,
        data: Buffer,
        *,
        vocab_size: int,
        prefix: str = "",
        unk_id: int | None = None,
        rules: TextRules = TextRules(),  # noqa: B008  # frozen
        languages: Languages = Languages(),  # noqa: B008  # frozen
        target: "Tokenizer | None" = None,
    ) -> None:
        data, self._charsmap = _check_components(bytes(data))
        with _failures_are_the_bundles():
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            added = self._tokenizer.get_added_tokens_decoder()
            # Special tokens are plain text in a text, so all that are to be become special.
            self._tokenizer.add_special_tokens(
                [token.content for token in added.values() if not token.special]
            )
            self._tokenizer.encode_special_tokens = True
            n_tokens = self._tokenizer.get_vocab_size()
            mask = self._tokenizer.encode("a").special_tokens_mask
            ids = self._tokenizer.encode("a").ids
            self._reads_windows = reads_windows(self._tokenizer, data)
        if n_tokens > vocab_size and unk_id is None:
            raise BundleError(TOKENIZER, f"at most {vocab_size} tokens, as the model has", f"{n_tokens}")
        body = [i for i, special in enumerate(mask) if not special]
        if not body:
            raise BundleError(TOKENIZER, "tokens for a letter", "none")
        self._prefix = prefix
        self._vocab_size = vocab_size
        self._unk_id = unk_id
        self._rules = rules
        self._target = target if rules.unknown_in_target else None
        self._head, self._tail = ids[: body[0]], ids[body[-1] + 1 :]  # what the post-processor adds
        self._languages = languages
        if languages.ids:
            self._set_languages(languages.source, languages.target)
        decoder = self._tokenizer.decoder
        self._is_byte_level = decoder is not None and decoder.decode(["\u0120"]) == " "
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        # What must not come from a text; some tokenizers call byte tokens and <unk> special, which may.
        self._control_ids = frozenset(
            i for i in self._special_ids if i != unk_id and not _BYTE_TOKEN.fullmatch(added[i].content)
        )

    def with_languages(self, source_language: str | None, target_language: str | None) -> Self:
        """This tokenizer for other languages than the bundle's defaults; ValueError for an unknown code."""
        given = {"source_language": source_language, "target_language": target_language}
        if not any(given.values()):
            return self
        for option, code in given.items():
            if code is not None and code not in self._languages.ids:
                raise ValueError(f"{option}: {_unknown_code(code, [*self._languages.ids])}")
        other = copy.copy(self)
        other._set_languages(
            source_language or self._languages.source, target_language or self._languages.target
        )
        return other

    def _set_languages(self, source: str | None, target: str | None) -> None:
        language_ids = self._languages.ids
        # A language that is not given is left out.
        ids = {
            "source": [language_ids[source]] if source else [],
            "target": [language_ids[target]] if target else [],
        }
        self._head, self._tail = (
            [token for part in parts for token in (ids[part] if isinstance(part, str) else [part])]
            for parts in (self._languages.head, self._languages.tail)
        )

    @property
    def overhead(self) -> int:
        """Tokens of an input that are not the text's: prefix and control tokens."""
        return len(self.encode(""))

    def encode(self, text: str, *, max_len: int | None = None) -> list[int]:
        """Input ids of a text: prefix and text as one, control tokens around; cut to fit `max_len`."""
        n_special = len(self._head) + len(self._tail)
        body = self.tokenize(self._prefix + text, None if max_len is None else max(max_len - n_special, 0))
        if max_len is not None:
            del body[max(max_len - n_special, 0) :]
        return [*self._head, *body, *self._tail]

    def tokenize(self, text: str, enough: int | None = None) -> list[int]:
        """Ids of a text alone, without prefix and control tokens; no more windows once there are `enough`."""
        text = _SURROGATE.sub("\ufffd", text)  # half a character is none
        if not self._reads_windows:
            return self._tokenize(text)
        ids: list[int] = []
        for window in windows(text):
            if enough is not None and len(ids) >= enough:
                break
            its_ids = self._tokenize(window.text)
            ids += self._without_first_blank(its_ids) if window.is_torn else its_ids
        return ids

    def _tokenize(self, text: str) -> list[int]:
        if self._charsmap is not None:
            text = self._charsmap.normalize(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if self._target is not None and self._unk_id in ids:
            ids = [
                self._target.known(token, i) if i == self._unk_id else i
                for i, token in zip(ids, encoding.tokens, strict=True)
            ]
        if not self._control_ids.isdisjoint(ids):
            # A model of whole pieces (Unigram) knows `</s>` as a piece of its own: spell it instead.
            ids = [part for i in ids for part in (self._spell(i) if i in self._control_ids else [i])]
        if ids and max(ids) >= self._vocab_size:
            if self._unk_id is None:
                raise BundleError(TOKENIZER, f"token ids below {self._vocab_size}", f"{max(ids)}")
            ids = [i if i < self._vocab_size else self._unk_id for i in ids]
        return ids

    def _without_first_blank(self, ids: list[int]) -> list[int]:
        """The tokens of a text without the blank that the tokenizer puts before it."""
        if not ids or not (self.token_bytes(ids[0]) or b"").startswith(b" "):
            return ids
        rest = self._tokenizer.id_to_token(ids[0])[1:]
        return [token.id for token in self._tokenizer.model.tokenize(rest)] + ids[1:] if rest else ids[1:]

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary, such as "</s>"; None if there is none."""
        token_id: int | None = self._tokenizer.token_to_id(token)
        return token_id

    def known(self, token: str, otherwise: int) -> int:
        """The id of a token that may be part of a text, by its name, if there is one."""
        token_id = self.token_id(token)
        return otherwise if token_id is None or token_id in self._special_ids else token_id

    def _spell(self, token_id: int) -> list[int]:
        characters: str = self._tokenizer.id_to_token(token_id)
        return [token.id for character in characters for token in self._tokenizer.model.tokenize(character)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        ids = [token_id for token_id in token_ids if token_id not in self._special_ids]
        if self._rules.bad_bytes == "run":
            text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        else:
            text = _join(map(self._tokenizer.id_to_token, ids), _BAD_BYTES[self._rules.bad_bytes])
        if self._rules.strip:
            text = text.strip()
        if self._rules.clean_up_spaces:
            for pattern, replacement in _CLEAN_UP:
                text = text.replace(pattern, replacement)
        return text

    def is_text(self, token_id: int) -> bool:
        """Whether a token adds to a decoded text: not special, and known."""
        return token_id not in self._special_ids and self._tokenizer.id_to_token(token_id) is not None

    def may_change(self, token_id: int) -> bool:
        """Whether the text of a token may be another one when more tokens follow it.

        It is one byte of a run that becomes U+FFFD as a whole if a later byte is wrong.
        """
        return self._rules.bad_bytes == "run" and self.is_byte(token_id)

    def is_byte(self, token_id: int) -> bool:
        """Whether a token stands for one byte of a character that has no token."""
        token = self._tokenizer.id_to_token(token_id)
        return token is not None and _BYTE_TOKEN.fullmatch(token) is not None

    def token_bytes(self, token_id: int) -> bytes | None:
        """What a token adds to a text, behind the first one; None if it adds nothing."""
        if not self.is_text(token_id):
            return None
        token: str = self._tokenizer.id_to_token(token_id)
        if byte := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(byte[1], 16)])
        if self._is_byte_level:
            return bytes(_BYTE_OF_CHARACTER[character] for character in token)
        return token.replace("\u2581", " ").encode()

    @property
    def cleans_up_spaces(self) -> bool:
        """Whether decoding removes blanks before punctuation."""
        return self._rules.clean_up_spaces

    def settled(self, text: str) -> str:
        """The part of a decoded text that stays when more tokens follow."""
        text = text.rstrip() if self._rules.strip else text
        text = text.rstrip(" \t\r\n\ufffd")
        if self._rules.clean_up_spaces:  # what follows a blank may still remove it
            blank = text.find(" ", max(0, len(text) - _CLEAN_UP_REACH))
            text = text if blank < 0 else text[:blank]
        return text


def check_token_ids(given: object, name: str, vocab_size: int) -> list[int]:
    """A list of token ids; TypeError or ValueError, which begins with `name`, if it is none."""
    values = [*given] if isinstance(given, Iterable) and not isinstance(given, bytes) else None
    if values is None or not all(hasattr(value, "__index__") for value in values):
        raise TypeError(f"{name}: expected a str or a list of token ids, found {type(given).__name__}")
    token_ids = [operator.index(value) for value in values]
    if wrong := [i for i in token_ids if not 0 <= i < vocab_size]:
        raise ValueError(f"{name}: expected token ids in 0..{vocab_size - 1}, found {wrong[0]}")
    return token_ids


def _unknown_code(code: str, known: list[str]) -> str:
    if not known:
        return f"this model is told no languages, found {code!r}"
    close = [name for name in known if name.startswith(code)] or difflib.get_close_matches(code, known)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"expected one of {', '.join(known)}, found {code!r}{hint}"


def _join(tokens: Iterable[str | None], errors: str) -> str:
    """The text of SentencePiece's pieces, each run of byte tokens decoded as one."""
    parts: list[str] = []
    run = bytearray()
    for token in tokens:
        if token is not None and (byte := _BYTE_TOKEN.fullmatch(token)):
            run.append(int(byte[1], 16))
            continue
        if run:
            parts.append(run.decode(errors=errors))
            run.clear()
        if token is not None:
            parts.append(token.replace("\u2581", " "))
    return "".join(parts) + run.decode(errors=errors)


_STREAM_WINDOW = 128  # tokens, beyond which the first half is let go of


class TextStream:
    """Turns a growing list of token ids into pieces of text which, joined, are the text of all of them.

    The end of a decoded text may still change: bytes of one character come in several tokens, and decoders
    merge blanks around line breaks. That end is held back until more tokens, or `finish`, settle it. Only the
    last tokens are kept, so that a long text takes time in proportion to its length.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._n_settled = 0  # ids before the last run of byte tokens that is decoded as one
        self._n_sent = 0  # characters

    def push(self, token_ids: Sequence[int]) -> str:
        """What is certain to come next in the text; may be empty."""
        for token_id in token_ids:
            if self._tokenizer.is_text(token_id):
                self._ids.append(token_id)
                if not self._tokenizer.may_change(token_id):
                    self._n_settled = len(self._ids)
        text = self._tokenizer.settled(self._tokenizer.decode(self._ids[: self._n_settled]))
        piece = self._send(text)
        if self._n_settled > _STREAM_WINDOW:
            self._forget(text)
        return piece

    def _forget(self, text: str) -> None:
        """Lets go of the first half of the tokens, which have been sent, if the rest is decoded as before."""
        half = self._n_settled // 2
        rest = self._tokenizer.settled(self._tokenizer.decode(self._ids[half : self._n_settled]))
        if rest and text.endswith(rest) and not self._tokenizer.may_change(self._ids[half]):
            del self._ids[:half]
            self._n_settled -= half
            self._n_sent -= len(text) - len(rest)

    def finish(self) -> str:
        """The rest."""
        return self._send(self._tokenizer.decode(self._ids))

    def _send(self, text: str) -> str:
        piece = text[self._n_sent :]
        self._n_sent += len(piece)
        return piece


def _replace_each(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd", error.start + 1


codecs.register_error("edge_s2s.each", _replace_each)


def _check_components(data: bytes) -> tuple[bytes, Charsmap | None]:
    """Refuses what the allow-list lacks. Returns the file without its charsmap, and that."""
    if len(data) > MAX_SIZE:
        raise BundleError(TOKENIZER, f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    charsmaps = _PRECOMPILED.findall(data)
    rest = _BULK.sub(rb'"\1":0', _PRECOMPILED.sub(b'{"type":"Precompiled"}', data))
    document = parse_json(rest, TOKENIZER, MAX_SIZE)
    if not isinstance(document, dict):
        raise BundleError(TOKENIZER, "a JSON object", type(document).__name__)
    for name, component in document.items():
        if name in ALLOWED:
            growth = 1.0
            for part in _parts(name, component):
                _check_part(name, part)
                growth *= _growth(part)
            if growth > MAX_GROWTH:
                raise BundleError(TOKENIZER, f"{name}: texts up to {MAX_GROWTH} times as long", f"{growth:g}")
        elif name not in _NOT_COMPONENTS:
            known = ", ".join([*ALLOWED, *sorted(_NOT_COMPONENTS)])
            raise BundleError(TOKENIZER, f"the keys {known}", ascii(name)[:100])
    normalizers = [part["type"] for part in _parts("normalizer", document.get("normalizer"))]
    normalizers = [kind for kind in normalizers if kind != "Sequence"]
    if "Precompiled" not in normalizers:
        return data, None
    if normalizers.index("Precompiled") or normalizers.count("Precompiled") != 1 or len(charsmaps) != 1:
        raise BundleError(
            TOKENIZER, "normalizer: one Precompiled with a charsmap, first", f"{normalizers}"[:100]
        )
    try:
        charsmap = Charsmap(base64.b64decode(charsmaps[0], validate=True))
    except ValueError as error:
        raise BundleError(TOKENIZER, "normalizer: a charsmap that holds its trie", str(error)) from error
    return _PRECOMPILED.sub(_NO_NORMALIZER, data), charsmap


def _parts(name: str, component: object) -> Iterator[dict[str, object]]:
    """A component and, in a Sequence, all its members."""
    if component is None and name != "model":
        return
    if not isinstance(component, dict):
        raise BundleError(TOKENIZER, f"{name}: an object", type(component).__name__)
    yield component
    for key in _MEMBERS:
        members = component.get(key, [])
        if not isinstance(members, list):
            raise BundleError(TOKENIZER, f"{name}: {key} as a list", type(members).__name__)
        for member in members:
            yield from _parts(name, member)


def _check_part(name: str, part: dict[str, object]) -> None:
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in ALLOWED[name]:
        raise BundleError(TOKENIZER, f"{name}: one of {', '.join(sorted(ALLOWED[name]))}", ascii(kind)[:100])
    pattern = part.get("pattern")
    if pattern is not None and not (isinstance(pattern, dict) and list(pattern) == ["String"]):
        raise BundleError(TOKENIZER, f"{name}: {kind} with a pattern that is a string", ascii(pattern)[:100])
    if pattern is not None and not (isinstance(pattern["String"], str) and pattern["String"]):
        raise BundleError(TOKENIZER, f"{name}: {kind} with a pattern that is not empty", ascii(pattern)[:100])
    if kind == "Replace" and not (pattern and isinstance(part.get("content"), str)):
        raise BundleError(TOKENIZER, f"{name}: Replace of a text by a text", ascii(part)[:100])
    if part.get("dropout") not in (None, 0.0):
        raise BundleError(TOKENIZER, f"{name}: no dropout, which is random", ascii(part["dropout"])[:100])
    # What TextStream relies on: beyond byte tokens, decoders change nothing but blanks and line breaks.
    text = [pattern["String"]] if pattern else []
    text += [part.get("content")] if kind in ("Replace", "Strip") else []
    if name == "decoder" and not all(isinstance(t, str) and _BLANKS.fullmatch(t) for t in text):
        raise BundleError(TOKENIZER, f"decoder: {kind} of blanks and line breaks only", ascii(text)[:100])


def _growth(part: dict[str, object]) -> float:
    """How many times as long a part can make a text; `_check_part` has seen it."""
    if part["type"] == "Prepend":
        return max(1.0, len(str(part.get("prepend"))))
    if part["type"] == "Precompiled":
        return float(MAX_REPLACEMENT)
    if part["type"] != "Replace":
        return 1.0
    assert isinstance(part["pattern"], dict)
    return max(1.0, len(str(part["content"])) / len(part["pattern"]["String"]))


@contextmanager
def _failures_are_the_bundles() -> Iterator[None]:
    """tokenizers reports a bad file as Exception, or by a panic, which derives from BaseException."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise BundleError(
            TOKENIZER, "a tokenizer that the tokenizers library loads", str(error)[:300]
        ) from error
