"""Text to token ids and back, with a Hugging Face tokenizer whose parts come from an allow-list.

A bundle cannot bring a regular expression: matching time would be in its author's hands. What remains runs in
time proportional to the text (times its logarithm). Control tokens in a text are plain text.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tokenizers

from edge_s2s.errors import BundleError
from edge_s2s.manifest import TOKENIZER
from edge_s2s.strict_json import parse_json
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

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANKS = re.compile("[ \t\n\r\u2581]*")


class Tokenizer:
    """The tokenizer of a bundle; immutable, shared by any number of threads.

    `data` are the verified bytes of tokenizer.json, `prefix` the task prefix that every text gets.
    """

    def __init__(self, data: Buffer, *, vocab_size: int, prefix: str = "", unk_id: int | None = None) -> None:
        _check_components(bytes(data))
        with _failures_are_the_bundles():
            self._tokenizer = tokenizers.Tokenizer.from_buffer(bytes(data))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._tokenizer.encode_special_tokens = True  # as plain text
            n_tokens = self._tokenizer.get_vocab_size()
            mask = self._tokenizer.encode("a").special_tokens_mask
            ids = self._tokenizer.encode("a").ids
        if n_tokens > vocab_size:
            raise BundleError(TOKENIZER, f"at most {vocab_size} tokens, as the model has", f"{n_tokens}")
        body = [i for i, special in enumerate(mask) if not special]
        if not body:
            raise BundleError(TOKENIZER, "tokens for a letter", "none")
        self._prefix = prefix
        self._vocab_size = vocab_size
        self._head, self._tail = ids[: body[0]], ids[body[-1] + 1 :]  # what the post-processor adds
        added = self._tokenizer.get_added_tokens_decoder()
        self._special_ids = frozenset(i for i, token in added.items() if token.special)
        # What must not come from a text; some tokenizers call byte tokens and <unk> special, which may.
        self._control_ids = frozenset(
            i for i in self._special_ids if i != unk_id and not _BYTE_TOKEN.fullmatch(added[i].content)
        )

    @property
    def overhead(self) -> int:
        """Tokens of an input that are not the text's: prefix and control tokens."""
        return len(self.encode(""))

    def encode(self, text: str, *, max_len: int | None = None) -> list[int]:
        """Input ids of a text: prefix and text as one, control tokens around; cut to fit `max_len`."""
        body = self.tokenize(self._prefix + text)
        if max_len is not None:
            del body[max(max_len - len(self._head) - len(self._tail), 0) :]
        return [*self._head, *body, *self._tail]

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text alone, without prefix and control tokens."""
        text = _SURROGATE.sub("\ufffd", text)  # half a character is none
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not self._control_ids.isdisjoint(ids):
            # A model of whole pieces (Unigram) knows `</s>` as a piece of its own: spell it instead.
            ids = [part for i in ids for part in (self._spell(i) if i in self._control_ids else [i])]
        if ids and max(ids) >= self._vocab_size:
            raise BundleError(TOKENIZER, f"token ids below {self._vocab_size}", f"{max(ids)}")
        return ids

    def _spell(self, token_id: int) -> list[int]:
        characters: str = self._tokenizer.id_to_token(token_id)
        return [token.id for character in characters for token in self._tokenizer.model.tokenize(character)]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=True)
        return text

    def is_byte(self, token_id: int) -> bool:
        """Whether a token stands for one byte of a character that has no token."""
        token = self._tokenizer.id_to_token(token_id)
        return token is not None and _BYTE_TOKEN.fullmatch(token) is not None

    def is_text(self, token_id: int) -> bool:
        """Whether a token adds to a decoded text: not special, and known."""
        return token_id not in self._special_ids and self._tokenizer.id_to_token(token_id) is not None


class TextStream:
    """Turns a growing list of token ids into pieces of text which, joined, are the text of all of them.

    The end of a decoded text may still change: bytes of one character come in several tokens, and decoders
    merge blanks around line breaks. That end is held back until more tokens, or `finish`, settle it.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._n_settled = 0  # ids before the last run of byte tokens, which is decoded as one
        self._n_sent = 0  # characters

    def push(self, token_ids: Sequence[int]) -> str:
        """What is certain to come next in the text; may be empty."""
        for token_id in token_ids:
            if self._tokenizer.is_text(token_id):
                self._ids.append(token_id)
                if not self._tokenizer.is_byte(token_id):
                    self._n_settled = len(self._ids)
        text = self._tokenizer.decode(self._ids[: self._n_settled])
        return self._send(text.rstrip(" \t\r\n\ufffd"))

    def finish(self) -> str:
        """The rest."""
        return self._send(self._tokenizer.decode(self._ids))

    def _send(self, text: str) -> str:
        piece = text[self._n_sent :]
        self._n_sent += len(piece)
        return piece


def _check_components(data: bytes) -> None:
    if len(data) > MAX_SIZE:
        raise BundleError(TOKENIZER, f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    rest = _BULK.sub(rb'"\1":0', data)
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
    if kind == "Precompiled":
        _check_charsmap(name, part.get("precompiled_charsmap"))
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
    if part["type"] != "Replace":
        return 1.0
    assert isinstance(part["pattern"], dict)
    return max(1.0, len(str(part["content"])) / len(part["pattern"]["String"]))


def _check_charsmap(name: str, charsmap: object) -> None:
    """Its first four bytes say how many bytes of it are a trie; the library allocates what they say."""
    try:
        data = base64.b64decode(charsmap if isinstance(charsmap, str) else "", validate=True)
    except ValueError:
        data = b""
    n_trie = int.from_bytes(data[:4], "little")
    if len(data) < 4 or n_trie > len(data) - 4 or n_trie % 4:
        raise BundleError(
            TOKENIZER, f"{name}: a charsmap that holds its trie", f"{len(data)} bytes, trie {n_trie}"
        )


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
