"""Results that are JSON and follow a JSON schema; needs the extra `json`, which is the library llguidance.

    constraint = model.json_schema({"type": "object", "properties": {"name": {"type": "string"}}})
    [[generation]] = model.generate(["..."], constraint=constraint)
    json.loads(generation.text)

The library follows the schema byte by byte: here the tokens get their bytes and the states their interface.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from edge_s2s.constrained import ConstraintState
from edge_s2s.decoder import Ints
from edge_s2s.errors import ConstraintError
from edge_s2s.tokenizer import Tokenizer

MAX_SCHEMA_SIZE = 1 << 20  # characters
SEPARATORS = (", ", ": ")  # those of json.dumps

# no_forcing: what can only go on in one way may still be written with any tokens.
# A model whose words begin with a blank begins with one; decoding takes it away again, or JSON does not mind.
_GRAMMAR = """%llguidance {{"no_forcing": true}}
start: " "? json
json: %json {}"""


class Vocabulary:
    """The tokens of results as llguidance takes them: the bytes that each one adds to a text.

    Raises ConstraintError if llguidance is not there, or if texts are not just the bytes of their tokens.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int, eos_token_id: int) -> None:
        if tokenizer.cleans_up_spaces:
            raise ConstraintError(
                "json_schema: this model's tokenizer takes blanks away before punctuation, in strings too "
                "(clean_up_tokenization_spaces), so that a text can break the schema which its tokens keep"
            )
        probe = tokenizer.tokenize("a a")
        joined = b"".join(tokenizer.token_bytes(token_id) or b"" for token_id in probe)
        if joined.decode(errors="replace").strip() != tokenizer.decode(probe).strip():
            raise ConstraintError("json_schema: this model's tokenizer does not give blanks back")
        self.vocab_size = vocab_size
        self.bos_token_id = None  # the names from here on are llguidance's
        self.eos_token_id = eos_token_id
        texts = [tokenizer.token_bytes(token_id) for token_id in range(vocab_size)]
        self.special_token_ids = [token_id for token_id, text in enumerate(texts) if not text]
        self.tokens = [text or b"\xff<%d>" % token_id for token_id, text in enumerate(texts)]
        self._ids = {text: token_id for token_id, text in enumerate(texts) if text}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: bytes) -> list[int]:
        """Tokens of a text, the longest ones first; bytes that no token has are left out."""
        token_ids, start = [], 0
        while start < len(text):
            ends = range(min(len(text), start + self._longest), start, -1)
            end = next((end for end in ends if text[start:end] in self._ids), start)
            if end > start:
                token_ids.append(self._ids[text[start:end]])
            start = max(end, start + 1)
        return token_ids

    @cached_property
    def for_llguidance(self) -> Any:
        """Its LLTokenizer, which takes a second for a large vocabulary."""
        llguidance = _llguidance()
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(self), n_vocab=self.vocab_size)


class JsonSchema:
    """Results that are one JSON value which a schema allows; a Constraint.

    A result that `max_new_tokens` cut has `finish_reason="length"` and is not complete. `separators` stand
    between items and after keys, as those of `json.dumps`. Raises ConstraintError for what is no schema, for
    keywords that llguidance does not know, and if the vocabulary cannot begin a result.
    """

    max_len = None

    def __init__(
        self,
        schema: Mapping[str, Any] | bool | str,
        vocabulary: Vocabulary,
        *,
        separators: tuple[str, str] = SEPARATORS,
    ) -> None:
        document = _with_separators(_parse(schema), separators)
        llguidance = _llguidance()
        tokens = vocabulary.for_llguidance
        grammar = llguidance.LLMatcher.grammar_from_lark(_GRAMMAR.format(json.dumps(document)))
        self._matcher = llguidance.LLMatcher(tokens, grammar, log_level=0)
        self._eos_token_id = vocabulary.eos_token_id
        self._vocab_size = vocabulary.vocab_size
        if self._matcher.is_error():
            raise ConstraintError(f"json_schema: {_reason(self._matcher)}")
        if not len(self.start().allowed()):
            raise ConstraintError("json_schema: this model has no token with which a result could begin")

    def start(self) -> ConstraintState:
        """Nothing is written yet."""
        return _State(self._matcher.deep_copy(), self._vocab_size, self._eos_token_id)


class _State:
    def __init__(self, matcher: Any, vocab_size: int, eos_token_id: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size
        self._eos_token_id = eos_token_id

    @property
    def may_end(self) -> bool:
        return bool(self._matcher.is_accepting())

    def allowed(self) -> Ints:
        words = np.zeros((self._vocab_size + 31) // 32, np.int32)
        if not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._matcher.is_error():
            if self._matcher.get_error().startswith("NoExtensionBias"):  # no token can go on
                return np.empty(0, np.int32)
            raise ConstraintError(f"json_schema: {_reason(self._matcher)}")
        bits = np.unpackbits(words.view(np.uint8), bitorder="little")[: self._vocab_size]
        bits[self._eos_token_id] = 0
        return np.flatnonzero(bits).astype(np.int32)

    def advance(self, token_id: int) -> ConstraintState | None:
        matcher = self._matcher.deep_copy()
        if token_id == self._eos_token_id or not matcher.try_consume_tokens([token_id]):
            if matcher.is_error():  # not the token's fault: the schema is too complex
                raise ConstraintError(f"json_schema: {_reason(matcher)}")
            return None
        return _State(matcher, self._vocab_size, self._eos_token_id)


def _reason(matcher: Any) -> str:
    """Why a matcher failed, without the grammar that it quotes."""
    error: str = matcher.get_error()
    return re.split("\n   1 \\||\n<state>", error)[0].rpartition("failed to compile JSON schema: ")[2][:500]


def _parse(schema: object) -> dict[str, Any]:
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        if len(text) > MAX_SCHEMA_SIZE:
            raise ConstraintError(
                f"json_schema: expected at most {MAX_SCHEMA_SIZE} characters, found {len(text)}"
            )
        document = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ConstraintError):
            raise
        raise ConstraintError(f"json_schema: expected a schema as JSON, found {error}") from error
    if document is True:
        return {}
    if not isinstance(document, dict):
        raise ConstraintError(f"json_schema: expected a JSON object or true, found {text[:100]}")
    return document


def _with_separators(document: dict[str, Any], separators: Sequence[str]) -> dict[str, Any]:
    """With the options of llguidance that say where blanks stand: nowhere else."""
    item, key = separators
    if item.strip() != "," or key.strip() != ":":
        raise ValueError(f'separators: expected "," and ":" with blanks around, found {separators!r}')
    options = {"item_separator": item, "key_separator": key, "whitespace_flexible": False}
    return {**document, "x-guidance": options}


def _llguidance() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise ConstraintError("json_schema: needs llguidance; pip install 'edge_s2s[json]'") from error
    return llguidance
