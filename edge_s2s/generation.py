"""What a caller may ask of `generate`, and what one gets back.

Names and meanings of the options are those of transformers' `generate`. An option left at None is the
bundle's default, as transformers takes it from generation_config.json.
"""

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from edge_s2s.ctranslate2_names import accept_ctranslate2_names
from edge_s2s.manifest import MAX_BIAS, PENALTY_RANGE, SAMPLING_RANGES, Dimensions, GenerationDefaults

FinishReason: TypeAlias = Literal["eos", "length", "deadline", "cancelled", "loop"]
Check: TypeAlias = Literal["loops", "numbers", "names"]
CHECKS: tuple[Check, ...] = ("loops", "numbers", "names")

Tokens: TypeAlias = Sequence[int]

MAX_DRAFT_TOKENS = 16
MAX_DRAWS = 256  # of a source at a time
_MAX_TOKEN = (1 << 31) - 1
_MAX_TOKENS = 1 << 20  # of all lists of an option together
# What an option may be; the vocabulary bounds token ids further.
_INTEGERS = {
    "num_beams": (1, 64),
    "num_return_sequences": (1, 65536),
    "max_new_tokens": (1, 65536),
    "min_new_tokens": (0, 65536),
    "max_length": (2, 65536),
    "min_length": (0, 65536),
    "no_repeat_ngram_size": (0, 65536),
    "encoder_no_repeat_ngram_size": (0, 65536),
    "forced_bos_token_id": (-1, _MAX_TOKEN),
    "forced_eos_token_id": (-1, _MAX_TOKEN),
    "top_k": (0, _MAX_TOKEN),
    "seed": (0, (1 << 64) - 1),
    "num_beam_groups": (1, 64),
    "prompt_lookup_num_tokens": (0, MAX_DRAFT_TOKENS),
    "deadline_ms": (1, 1 << 40),
}
_NUMBERS = {
    "length_penalty": (-100, 100),
    "repetition_penalty": PENALTY_RANGE,
    "encoder_repetition_penalty": PENALTY_RANGE,
    **{name: SAMPLING_RANGES[name] for name in ("temperature", "top_p", "min_p", "typical_p")},
    "diversity_penalty": (0, MAX_BIAS),
}
_TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens")
_SAME = (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length"))


@accept_ctranslate2_names
@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of `generate`; raises ValueError or TypeError with a sentence if they are wrong.

    CTranslate2's names are taken, too: `beam_size` is `num_beams`; `ctranslate2_names` has the others.
    """

    num_beams: int | None = None
    """Hypotheses followed at a time; 1 is greedy search."""
    num_return_sequences: int | None = None
    """Results for each source. Beams: the best ones, at most `num_beams`. Sampling with `num_beams=1`:
    independent draws, at most 256. Greedy search has one."""
    do_sample: bool | None = None
    """Draw tokens by their probability instead of taking the best. With `num_beams` above 1, beam search
    draws its continuations."""
    temperature: float | None = None
    """Sampling: logits are divided by it; below 1 favours likely tokens. 0.001..1000."""
    top_k: int | None = None
    """Sampling: then draw among the k most likely tokens; 0 is off. Unless the bundle says otherwise 50."""
    top_p: float | None = None
    """Sampling: then among the most likely ones that together have this probability; 1 is off."""
    min_p: float | None = None
    """Sampling: then among those at least this many times as likely as the most likely one; 0 is off."""
    typical_p: float | None = None
    """Sampling: then among those whose information is nearest to the expected one and that together have this
    probability (https://arxiv.org/abs/2202.00666); 1 is off."""
    seed: int | None = None
    """Sampling: what is drawn for a source depends on its tokens, its `decoder_input_ids`, the options and
    this seed alone. Without one every source gets its own at random, and results tell it."""
    num_beam_groups: int | None = None
    """Above 1: diverse beam search by so many groups of `num_beams / num_beam_groups`
    (https://arxiv.org/abs/1610.02424)."""
    diversity_penalty: float | None = None
    """Diverse beam search: taken from a token's score for each time that an earlier group has chosen it in
    this step."""
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
    encoder_repetition_penalty: float | None = None
    """Above 1, tokens of the source become more likely, below less: a guard against hallucination. 1 is off;
    0.001..1000."""
    encoder_no_repeat_ngram_size: int | None = None
    """No n-gram of this size of the source occurs in the result; 0 is off."""
    bad_words_ids: Sequence[Tokens] | None = None
    """Token sequences that never occur."""
    sequence_bias: Mapping[Tokens, float] | Sequence[tuple[Tokens, float]] | None = None
    """What is added to a token's score where it completes one of these token sequences, -1e6..1e6. Biases of
    one token add up; a sequence of several tokens counts from where the result, start token included, is as
    long as the sequence. {} is off."""
    renormalize_logits: bool | None = None
    """Beam search: the probabilities that all rules have left add up to 1 again before they are compared."""
    prompt_lookup_num_tokens: int | None = None
    """Greedy search of one text: up to so many tokens, at most 16, are read ahead where the last ones stood
    before, in the text or in the result. It changes no result, and ends by itself where it costs time. 0 is
    off."""
    suppress_tokens: Tokens | None = None
    """Tokens that never occur."""
    begin_suppress_tokens: Tokens | None = None
    """Tokens that are not the first new one, or not the second where `forced_bos_token_id` is the first."""
    exponential_decay_length_penalty: tuple[int, float] | None = None
    """(start, factor): from `start` new tokens on, EOS gains `abs(score) * (factor ** n - 1)`, n being the
    number of new tokens beyond `start`. factor 1 is off; 0.001..1000. Unlike in transformers, where that is
    not a number, EOS stays forbidden where another rule forbids it."""
    forced_bos_token_id: int | None = None
    """The first new token; -1 switches the bundle's default off."""
    forced_eos_token_id: int | None = None
    """The last token where `max_new_tokens` is reached; -1 switches the bundle's default off."""
    source_language: str | None = None
    """Code of the text's language, for a model with several; `Manifest.language_tokens` has them."""
    target_language: str | None = None
    """Code of the result's language."""
    checks: Sequence[Check] | None = None
    """What is not left in a result if it can be mended: "loops"; "numbers" and "names" that the source does
    not have. () is off, as `generate` and `stream` are by default, which are transformers'; `summarize` does
    what the bundle says, or checks loops and numbers."""
    careful: bool | None = None
    """Also draw other answers, where the bundle has a calibration for that. `confidence` then depends on how
    far they agree with the result, and tells more; the result stays as it is. It costs a second, wider
    search. Off by default; a HybridModel does it where its cloud may be asked."""
    deadline_ms: int | None = None
    """Time for the whole call, encoder included; what is there then comes with `finish_reason="deadline"`."""

    def __post_init__(self) -> None:
        for name, (smallest, largest) in _INTEGERS.items():
            if (integer := getattr(self, name)) is not None:
                _check_int(name, integer, smallest, largest)
        for name, (low, high) in _NUMBERS.items():
            if (number := getattr(self, name)) is not None:
                _check_float(name, number, low, high)
        for name in ("do_sample", "renormalize_logits", "careful"):
            if not isinstance(getattr(self, name), bool | None):
                raise ValueError(f"{name}: expected True or False, found {getattr(self, name)!r}")
        for name in ("source_language", "target_language"):
            if not isinstance(getattr(self, name), str | None):
                raise TypeError(f"{name}: expected a code such as en, found {getattr(self, name)!r}")
        early = self.early_stopping
        if not (early is None or isinstance(early, bool) or early == "never"):
            raise ValueError(f'early_stopping: expected True, False or "never", found {early!r}')
        for name in _TOKEN_LISTS:
            self._normalize(name, _tokens)
        self._normalize("bad_words_ids", _words)
        self._normalize("sequence_bias", _biases)
        self._normalize("exponential_decay_length_penalty", _decay)
        self._normalize("checks", _checks)
        for name, same in _SAME:
            if getattr(self, name) is not None and getattr(self, same) is not None:
                raise ValueError(f"{name} and {same} mean the same, one start token apart; give one of them")

    def _normalize(self, name: str, normalized: Callable[[str, Any], object]) -> None:
        """Puts a checked, hashable value in the place of what was given."""
        if (value := getattr(self, name)) is not None:
            object.__setattr__(self, name, normalized(name, value))

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
        small_large = [("min_new_tokens", "max_new_tokens")]
        if not merged.do_sample or merged.num_beams > 1:
            small_large.append(("num_return_sequences", "num_beams"))
        elif merged.num_return_sequences > MAX_DRAWS:
            raise ValueError(f"num_return_sequences is {merged.num_return_sequences}; a source has at most "
                             f"{MAX_DRAWS} draws")  # fmt: skip
        for small, large in small_large:
            low, high = getattr(merged, small), getattr(merged, large)
            if low > high and small in given and large in given:
                raise ValueError(f"{small} is {low} but {large} is {high}; it can be at most that")
            if low > high and small in given:
                raise ValueError(f"{small} is {low} but {large}, by default, is {high}; raise {large} too")
            merged = dataclasses.replace(merged, **{small: min(low, high)})
        _check_groups(merged)
        if merged.max_new_tokens > dimensions.max_target_len:
            raise ValueError(f"max_new_tokens is {merged.max_new_tokens} but this model generates at most "
                             f"{dimensions.max_target_len} tokens")  # fmt: skip
        for name, tokens in _token_ids(merged).items():
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
    """ONNX Runtime's execution providers of the encoder, or "native": the C core"""
    fallback: str = ""
    """Why the CPU encoded though `load` was asked for another provider; "" if it was not"""
    n_chunks: int = 1
    """Pieces that a long document was cut into"""
    n_levels: int = 0
    """How often the summaries of pieces were summarized again"""
    cloud_ms: float = 0.0
    """Time from asking the cloud to its answer"""


class Provenance(NamedTuple):
    """A sentence of a result's text, from `start` to before `end`, and where the document says it.

    The sentence from `source_start` to before `source_end` shares most words and word pairs with it.
    """

    start: int
    end: int
    source_start: int
    source_end: int


@dataclass(frozen=True, kw_only=True)
class Generation:
    """A generated text.

    That of a document cut into chunks is made of sentences from several outputs: `token_ids` are then
    its text as tokens, `token_logprobs` is empty, and `score` is the mean score of those outputs.
    """

    text: str
    token_ids: tuple[int, ...]
    """From what was given as `decoder_input_ids` to EOS, without the start token"""
    score: float
    """Beams: transformers' `sequences_scores`. Else: sum of `token_logprobs` / number ** length_penalty"""
    token_logprobs: tuple[float, ...]
    """log-softmax of the logits before any rule, for each new one of `token_ids`, which are the last ones"""
    finish_reason: FinishReason
    """"loop": it went round in circles, and its beginning or a sentence of the source is all there is"""
    reasons: tuple[str, ...] = ()
    """What `checks` found in the first try, and what was done; `repair` has the words. A HybridModel adds why
    the cloud was asked, and why it did not answer; `hybrid.policy` has its words"""
    origin: Literal["device", "cloud"] = "device"
    """Of the cloud is the text alone: it has no `token_ids` and `token_logprobs`, and its `score` is NaN"""
    confidence: float | None = None
    """Probability that it is good, where the bundle has a calibration and the text was decoded in one pass"""
    draws: tuple[str, ...] = ()
    """Other answers to the same text that `careful` has drawn for the confidence"""
    seed: int | None = None
    """With which the same is drawn again; None if nothing was drawn"""
    provenance: tuple[Provenance, ...] = ()
    """Of `summarize`: where each sentence stands in `text`, and what supports it best in the document"""
    truncated: bool = False
    """The source was longer than the model accepts, and its end was not read"""
    stats: GenerationStats


class Replacement(str):
    """A piece of a stream that stands in the place of all pieces before it: a check failed them."""

    __slots__ = ()
    announcement = "That failed a check. Instead:"


def _check_groups(params: GenerationDefaults) -> None:
    """What transformers, too, asks of diverse beam search."""
    if (n_groups := params.num_beam_groups) == 1:
        return
    if params.do_sample:
        raise ValueError(
            f"num_beam_groups is {n_groups}: diverse beam search does not sample; set do_sample=False"
        )
    if params.num_beams % n_groups:
        raise ValueError(f"num_beams is {params.num_beams}, which num_beam_groups, {n_groups}, must divide")
    if params.diversity_penalty == 0:
        raise ValueError(
            "diversity_penalty is 0, with which all of the num_beam_groups find the same; raise it"
        )


def _check_int(name: str, value: object, smallest: int, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise ValueError(f"{name}: expected an integer in {smallest}..{largest}, found {value!r}")


def _check_float(name: str, value: object, smallest: float, largest: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not smallest <= value <= largest:
        raise ValueError(f"{name}: expected a number in {smallest:g}..{largest:g}, found {value!r}")


def _tokens(name: str, values: Any) -> tuple[int, ...]:
    try:
        tokens = tuple(map(operator.index, values))
    except TypeError as error:
        raise TypeError(f"{name}: expected a list of token ids, found {values!r}") from error
    _check_len(name, tokens)
    for token in tokens:
        _check_int(name, token, 0, _MAX_TOKEN)
    return tokens


def _words(name: str, values: Any) -> tuple[tuple[int, ...], ...]:
    if not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected lists of token ids, found {values!r}")
    words = tuple(_tokens(name, word) for word in values)
    if not all(words):
        raise ValueError(f"{name}: expected sequences of tokens, found an empty one")
    _check_len(name, [token for word in words for token in word])
    return words


def _biases(name: str, values: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    try:
        pairs = [(word, bias) for word, bias in (values.items() if isinstance(values, Mapping) else values)]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: expected a dict from token sequences to numbers, found {values!r}"
        ) from error
    words = _words(name, [word for word, _ in pairs])
    for _, bias in pairs:
        _check_float(name, bias, -MAX_BIAS, MAX_BIAS)
    return tuple({word: float(bias) for word, (_, bias) in zip(words, pairs, strict=True)}.items())


def _decay(name: str, value: Any) -> tuple[int, float]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise TypeError(f"{name}: expected (start, factor), found {value!r}")
    start, factor = value
    _check_int(f"{name}, start", start, 0, 65536)
    _check_float(f"{name}, factor", factor, *PENALTY_RANGE)
    return start, float(factor)


def _checks(name: str, values: Any) -> tuple[Check, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected some of {CHECKS}, found {values!r}")
    given = [*values]
    if wrong := [value for value in given if value not in CHECKS]:
        raise ValueError(f"{name}: expected some of {CHECKS}, found {wrong[0]!r}")
    return tuple(check for check in CHECKS if check in given)


def _check_len(name: str, tokens: Sequence[int]) -> None:
    if len(tokens) > _MAX_TOKENS:
        raise ValueError(f"{name}: expected at most {_MAX_TOKENS} tokens, found {len(tokens)}")


def _token_ids(params: GenerationDefaults) -> dict[str, Sequence[int]]:
    """All token ids of every option that has some."""
    words = {
        "bad_words_ids": params.bad_words_ids,
        "sequence_bias": [word for word, _ in params.sequence_bias],
    }
    ids: dict[str, Sequence[int]] = {name: getattr(params, name) for name in _TOKEN_LISTS}
    ids |= {name: [token for word in value for token in word] for name, value in words.items()}
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        token = getattr(params, name)
        ids[name] = () if token is None else (token,)
    return ids
