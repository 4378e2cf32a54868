"""What a caller may ask of `generate`, and what one gets back.

Names and meanings of the options are those of transformers' `generate`. An option left at None is the
bundle's default, as transformers takes it from generation_config.json.
"""

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edge_s2s.manifest import Dimensions, GenerationDefaults

FinishReason: TypeAlias = Literal["eos", "length", "deadline", "cancelled"]

_SMALLEST = {  # of integer options
    "num_beams": 1,
    "num_return_sequences": 1,
    "max_new_tokens": 1,
    "min_new_tokens": 0,
    "max_length": 2,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "deadline_ms": 1,
}
_LARGEST = {"num_beams": 64, "no_repeat_ngram_size": 65536, "deadline_ms": 1 << 40}


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of `generate`; raises ValueError or TypeError with a sentence if they are wrong."""

    num_beams: int | None = None
    """Hypotheses followed at a time; 1 is greedy search."""
    num_return_sequences: int | None = None
    """Results for each source, best first; at most `num_beams`."""
    max_new_tokens: int | None = None
    """Longest result in tokens, EOS included. `summarize` keeps to it for documents of any length."""
    min_new_tokens: int | None = None
    """EOS is forbidden before."""
    max_length: int | None = None
    """`max_new_tokens` + 1, because it counts the start token; give one of the two."""
    min_length: int | None = None
    """`min_new_tokens` + 1, because it counts the start token; give one of the two."""
    early_stopping: bool | Literal["never"] | None = None
    """When beam search ends. True: when `num_beams` hypotheses have finished. False: when the best live beam
    could not win if it ended now. "never": when no live beam can win at any length."""
    length_penalty: float | None = None
    """Scores are sums of log-probabilities divided by `length ** length_penalty`; above 0 favours longer."""
    repetition_penalty: float | None = None
    """Above 1, tokens that occurred already become less likely (https://arxiv.org/abs/1909.05858)."""
    no_repeat_ngram_size: int | None = None
    """No n-gram of this size occurs twice; 0 is off."""
    bad_words_ids: Sequence[Sequence[int]] | None = None
    """Token sequences that never occur."""
    suppress_tokens: Sequence[int] | None = None
    """Tokens that never occur."""
    forced_bos_token_id: int | None = None
    """The first new token; -1 switches the bundle's default off."""
    forced_eos_token_id: int | None = None
    """The last token where `max_new_tokens` is reached; -1 switches the bundle's default off."""
    deadline_ms: int | None = None
    """Time for the whole call, encoder included; what is there then comes with `finish_reason="deadline"`."""

    def __post_init__(self) -> None:
        for name, smallest in _SMALLEST.items():
            _check_int(name, getattr(self, name), smallest, _LARGEST.get(name, 65536))
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            _check_int(name, getattr(self, name), -1, (1 << 31) - 1)
        _check_float("length_penalty", self.length_penalty, -100, 100)
        _check_float("repetition_penalty", self.repetition_penalty, 1e-3, 1e3)
        early = self.early_stopping
        if not (early is None or isinstance(early, bool) or early == "never"):
            raise ValueError(f'early_stopping: expected True, False or "never", found {early!r}')
        if self.suppress_tokens is not None:
            object.__setattr__(self, "suppress_tokens", _tokens("suppress_tokens", self.suppress_tokens))
        if self.bad_words_ids is not None:
            if not isinstance(self.bad_words_ids, Iterable):
                raise TypeError(f"bad_words_ids: expected lists of token ids, found {self.bad_words_ids!r}")
            words = tuple(_tokens("bad_words_ids", word) for word in self.bad_words_ids)
            if not all(words):
                raise ValueError("bad_words_ids: expected sequences of tokens, found an empty one")
            object.__setattr__(self, "bad_words_ids", words)
        for name, same in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
            if getattr(self, name) is not None and getattr(self, same) is not None:
                raise ValueError(f"{name} and {same} mean the same, one start token apart; give one of them")

    def complete(self, defaults: GenerationDefaults, dimensions: Dimensions) -> GenerationDefaults:
        """These options, with the bundle's defaults where they are None; ValueError if they contradict.

        A default gives way to an option: asking for 1 beam lowers a default of 4 returned sequences.
        """
        given = {name: value for name in _SHARED if (value := getattr(self, name)) is not None}
        if self.max_length is not None:
            given["max_new_tokens"] = self.max_length - 1
        if self.min_length is not None:
            given["min_new_tokens"] = max(self.min_length - 1, 0)
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if given.get(name) == -1:
                given[name] = None
        merged = dataclasses.replace(defaults, **given)
        for small, large in (("num_return_sequences", "num_beams"), ("min_new_tokens", "max_new_tokens")):
            low, high = getattr(merged, small), getattr(merged, large)
            if low > high and small in given and large in given:
                raise ValueError(f"{small} is {low} but {large} is {high}; it can be at most that")
            if low > high and small in given:
                raise ValueError(f"{small} is {low} but {large}, by default, is {high}; raise {large} too")
            merged = dataclasses.replace(merged, **{small: min(low, high)})
        if merged.max_new_tokens > dimensions.max_target_len:
            raise ValueError(f"max_new_tokens is {merged.max_new_tokens} but this model generates at most "
                             f"{dimensions.max_target_len} tokens")  # fmt: skip
        words = tuple(token for word in merged.bad_words_ids for token in word)
        ids = {"suppress_tokens": merged.suppress_tokens, "bad_words_ids": words}
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            token = getattr(merged, name)
            ids[name] = () if token is None else (token,)
        for name, tokens in ids.items():
            if (largest := max(tokens, default=0)) >= dimensions.vocab_size:
                raise ValueError(f"{name}: expected token ids below {dimensions.vocab_size}, found {largest}")
        return merged


_SHARED = [field.name for field in dataclasses.fields(GenerationDefaults)]


@dataclass(frozen=True, kw_only=True)
class GenerationStats:
    """Where the time of a result went, and what ran."""

    source_tokens: int
    """Tokens that the encoder read; of all chunks and levels for a long document"""
    encoder_ms: float
    decoder_ms: float
    """Its share of the time of its batch; of all chunks and levels for a long document"""
    isa: str
    """Kernel set of the decoder"""
    num_threads: int
    providers: tuple[str, ...]
    """ONNX Runtime's execution providers of the encoder"""
    n_chunks: int = 1
    """Pieces that a long document was cut into"""
    n_levels: int = 0
    """How often the summaries of pieces were summarized again"""


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generated text.

    That of a document cut into chunks is made of sentences from several outputs: `token_ids` are then
    its text as tokens, `token_logprobs` is empty, and `score` is the mean score of those outputs.
    """

    text: str
    token_ids: tuple[int, ...]
    """Without the start token, with EOS"""
    score: float
    """Beams: transformers' `sequences_scores`. Greedy: sum of `token_logprobs` / length ** length_penalty"""
    token_logprobs: tuple[float, ...]
    """log-softmax of the logits before any rule, for each of `token_ids`"""
    finish_reason: FinishReason
    origin: Literal["device"] = "device"
    confidence: float | None = None
    truncated: bool = False
    """The source was longer than the model accepts, and its end was not read"""
    stats: GenerationStats


def _check_int(name: str, value: object, smallest: int, largest: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise ValueError(f"{name}: expected an integer in {smallest}..{largest}, found {value!r}")


def _check_float(name: str, value: object, smallest: float, largest: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not smallest <= value <= largest:
        raise ValueError(f"{name}: expected a number in {smallest:g}..{largest:g}, found {value!r}")


def _tokens(name: str, values: Iterable[int]) -> tuple[int, ...]:
    try:
        tokens = tuple(map(operator.index, values))
    except TypeError as error:
        raise TypeError(f"{name}: expected a list of token ids, found {values!r}") from error
    for token in tokens:
        _check_int(name, token, 0, (1 << 31) - 1)
    return tokens
