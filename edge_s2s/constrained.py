"""Constrained decoding: results that are one of a list of texts, or follow a grammar.

    allowed = model.allow_texts(["positive", "negative"])
    [[generation]] = model.generate(["..."], constraint=allowed)

A Constraint says, token by token, what may come next; all else gets the score -inf after every other rule, as
`prefix_allowed_tokens_fn` does in transformers. The scores of what remains stay as they are.
"""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from edge_s2s.decoder import Floats, Hypothesis, Ints, LogitsProcessor
from edge_s2s.errors import ConstraintError
from edge_s2s.manifest import GenerationDefaults

_HOPELESS = -1e8  # no sum of log-probabilities; the core gives what cannot be a result -1e9

# What forbids or forces tokens, and so could leave a constraint nothing, and its value that is off.
_RULES: dict[str, Any] = {
    "min_new_tokens": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "forced_eos_token_id": None,
}

_NOTHING = (
    "no result keeps to the constraint: the model's tokens cannot write it, "
    "or the options forbid what it asks for"
)


class ConstraintState(Protocol):
    """Where a result stands after some tokens. It never changes."""

    @property
    def may_end(self) -> bool:
        """Whether the result may be complete: EOS may follow."""

    def allowed(self) -> Ints:
        """Which tokens but EOS may follow: int32 [n], each once."""

    def advance(self, token_id: int) -> "ConstraintState | None":
        """The state after one more token; None if it may not follow."""


class Constraint(Protocol):
    """What results may be; `AllowedSequences` and `JsonSchema` are two. Threads share it."""

    @property
    def max_len(self) -> int | None:
        """Tokens of the longest result, without EOS; None if there is no longest or it is not known."""

    def start(self) -> ConstraintState:
        """The state before the first token."""


class AllowedSequences:
    """Results that are one of some sequences of token ids, without EOS.

    Raises ValueError if there are none, or an empty one.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        self._root = _Node()
        self.max_len = 0
        for sequence in sequences:
            token_ids = [operator.index(token_id) for token_id in sequence]
            if not token_ids:
                raise ValueError("AllowedSequences: expected token ids, found an empty sequence")
            node = self._root
            for token_id in token_ids:
                node = node.children.setdefault(token_id, _Node())
            node.may_end = True
            self.max_len = max(self.max_len, len(token_ids))
        if not self.max_len:
            raise ValueError("AllowedSequences: expected at least one sequence, found none")

    def start(self) -> ConstraintState:
        """The root of their trie."""
        return self._root


class _Node:
    """A node of a trie, which is a state: nobody changes it once the trie is there."""

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.may_end = False

    def allowed(self) -> Ints:
        return np.fromiter(self.children, np.int32)

    def advance(self, token_id: int) -> ConstraintState | None:
        return self.children.get(token_id)


class ConstraintProcessor:
    """The logits processor of one source in one call that keeps its results to a constraint.

    The first `n_given` tokens of every sequence are not its: start token, prefix and forced token. After
    `before`, which may be another processor, it forbids what the constraint does. Without `beams`, to forbid
    everything is a ConstraintError.
    """

    def __init__(
        self,
        constraint: Constraint,
        *,
        eos_token_id: int,
        n_given: int,
        beams: bool,
        before: LogitsProcessor | None = None,
    ) -> None:
        self._constraint = constraint
        self._eos_token_id = eos_token_id
        self._n_given = n_given
        self._beams = beams
        self._before = before
        self._states: dict[tuple[int, ...], ConstraintState | None] = {}  # of this step and the last one

    def __call__(self, input_ids: Ints, scores: Floats) -> Floats | None:
        """Scores float32 [1, vocab_size] with -inf for every token that may not follow int32 [1, len]."""
        if self._before is not None:
            given = self._before(input_ids, scores)
            scores = scores if given is None else np.asarray(given, np.float32)
        if input_ids.shape[1] < self._n_given:
            return scores
        state = self._state(tuple(input_ids[0, self._n_given :].tolist()))
        kept = np.full_like(scores, -np.inf)
        if state is not None:
            allowed = state.allowed()
            if len(allowed) and not 0 <= allowed.min() <= allowed.max() < scores.shape[1]:
                raise ValueError(f"constraint: expected token ids in 0..{scores.shape[1] - 1}, "
                                 f"found {allowed.min()}..{allowed.max()}")  # fmt: skip
            kept[:, allowed] = scores[:, allowed]
            if state.may_end:
                kept[:, self._eos_token_id] = scores[:, self._eos_token_id]
        if not self._beams and np.isneginf(kept).all():
            raise ConstraintError(_NOTHING)
        return kept

    def _state(self, tokens: tuple[int, ...]) -> ConstraintState | None:
        if tokens not in self._states:
            before = self._states.get(tokens[:-1])
            if tokens and before is not None:
                state = before.advance(tokens[-1])
            else:
                state = state_after(self._constraint, tokens)
            self._states = {key: kept for key, kept in self._states.items() if len(key) >= len(tokens) - 1}
            self._states[tokens] = state
        return self._states[tokens]


def state_after(constraint: Constraint, tokens: Sequence[int]) -> ConstraintState | None:
    """Where a constraint stands after some tokens; None if they break it."""
    state: ConstraintState | None = constraint.start()
    for token in tokens:
        if state is None:
            break
        state = state.advance(token)
    return state


def without_rules(defaults: GenerationDefaults) -> GenerationDefaults:
    """A bundle's defaults for use with a constraint: without the rules that forbid or force tokens."""
    return replace(defaults, **_RULES)


def results_of(
    constraint: Constraint,
    hypotheses: Iterable[Hypothesis],
    *,
    eos_token_id: int,
    n_forced: int,
    params: GenerationDefaults,
) -> list[Hypothesis]:
    """Those that keep to a constraint, each once if they are beams; the first `n_forced` tokens are not its.

    A search that finds too few fills up with others, or stops where nothing may follow. ConstraintError if
    nothing remains.
    """
    found: dict[object, Hypothesis] = {}
    for i, hypothesis in enumerate(hypotheses):
        tokens = hypothesis.token_ids[n_forced:]
        is_complete = bool(tokens) and tokens[-1] == eos_token_id
        state = state_after(constraint, tokens[:-1] if is_complete else tokens)
        may_be_cut = (
            hypothesis.finish_reason != "length" or len(hypothesis.token_ids) == params.max_new_tokens
        )
        total = hypothesis.score * max(len(hypothesis.token_ids), 1) ** params.length_penalty
        if state is not None and (state.may_end if is_complete else may_be_cut) and total > _HOPELESS:
            found.setdefault(tokens if params.num_beams > 1 else i, hypothesis)
    if not found:
        raise ConstraintError(_NOTHING)
    return [*found.values()]
