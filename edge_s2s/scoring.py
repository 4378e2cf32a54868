"""What a model thinks of given targets: log-probabilities, alternatives and attention of each token.

    [score] = model.score(["A text."], ["Ein Text."], num_alternatives=3, output_attentions=True)

The search runs as for `generate`, without rules, and a logits processor leaves it one token in each step: so
a generated sequence has the bits of `token_logprobs` that it was generated with.
"""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from edge_s2s.decoder import Cancellation, Floats, Ints
from edge_s2s.job import Job, Parts, Source
from edge_s2s.manifest import GenerationDefaults

_PLAIN: dict[str, Any] = {  # greedy search without rules
    "num_beams": 1,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": (),
    "sequence_bias": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "exponential_decay_length_penalty": (0, 1.0),
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
}


class Alternative(NamedTuple):
    """A token that could have come, and the logarithm of its probability."""

    token_id: int
    text: str
    """What it adds to a text; empty for a special token"""
    logprob: float


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a model thinks of a target."""

    token_ids: tuple[int, ...]
    """Without the start token, with EOS"""
    token_logprobs: tuple[float, ...]
    """log-softmax of the logits, for each of `token_ids`"""
    score: float
    """Sum of `token_logprobs` / number ** length_penalty, as of a Generation by greedy search"""
    alternatives: tuple[tuple[Alternative, ...], ...] = ()
    """For each of `token_ids` the most likely tokens in its place, itself maybe among them"""
    cross_attentions: Floats | None = field(default=None, compare=False)
    """float32 [n_layers, n_heads, len(token_ids), source_len]: how much the step that gave a token attended
    to each token of the source; None if not asked for"""


class _Teacher:
    """A logits processor that allows one token in each step, the target's, and notes the alternatives."""

    def __init__(self, token_ids: tuple[int, ...], eos_token_id: int, num_alternatives: int) -> None:
        self._token_ids = token_ids
        self._eos_token_id = eos_token_id
        self._n = num_alternatives
        self.alternatives: list[list[tuple[int, float]]] = []

    def __call__(self, input_ids: Ints, scores: Floats) -> Floats:
        step = input_ids.shape[1] - 1
        is_over = step >= len(self._token_ids)  # another target of the batch is longer
        if self._n and not is_over:
            self.alternatives.append(_most_likely(scores[0], self._n))
        forced = np.full_like(scores, -np.inf)
        forced[0, self._eos_token_id if is_over else self._token_ids[step]] = 0
        return forced


def _most_likely(logits: Floats, n: int) -> list[tuple[int, float]]:
    """Ids and log-probabilities, best first; of equal ones the lower id first."""
    exact = logits.astype(np.float64)
    peak = exact.max()
    log_sum = peak + np.log(np.exp(exact - peak).sum())
    best = np.argsort(-logits, kind="stable")[:n]
    return [(int(i), float(exact[i] - log_sum)) for i in best]


def score_targets(
    job: Job,
    sources: list[Source],
    targets: list[tuple[int, ...]],
    cancellation: Cancellation,
    *,
    num_alternatives: int,
    output_attentions: bool,
) -> list[Score]:
    """Of each target, given its source; `job` says how many at a time."""
    dims, tokenizer = job.parts.decoder.dims, job.parts.target_tokenizer
    teachers = [_Teacher(target, dims.eos_token_id, num_alternatives) for target in targets]
    longest = max(map(len, targets), default=1)
    job = replace(job, params=replace(job.params, **_PLAIN, max_new_tokens=longest))
    taught = [
        replace(source, logits_processor=teacher) for source, teacher in zip(sources, teachers, strict=True)
    ]
    scores = []
    for source, target, teacher, [generation] in zip(
        sources, targets, teachers, job.run(taught, cancellation), strict=True
    ):
        logprobs = generation.token_logprobs[: len(target)]
        alternatives = tuple(
            tuple(Alternative(i, _text(tokenizer.token_bytes(i)), logprob) for i, logprob in step)
            for step in teacher.alternatives
        )
        scores.append(
            Score(
                token_ids=target,
                token_logprobs=logprobs,
                score=_score(logprobs, job.params),
                alternatives=alternatives,
                cross_attentions=_attend(job.parts, source, target) if output_attentions else None,
            )
        )
    return scores


def _text(data: bytes | None) -> str:
    return (data or b"").decode(errors="replace")


def _score(logprobs: tuple[float, ...], params: GenerationDefaults) -> float:
    return float(sum(logprobs) / len(logprobs) ** params.length_penalty)


def _attend(parts: Parts, source: Source, target: tuple[int, ...]) -> Floats:
    """The weights of cross-attention of the steps that gave a target's tokens."""
    decoder = parts.decoder
    inputs = (decoder.dims.decoder_start_token_id, *target[:-1])
    with decoder.session(1, 1, len(source.input_ids), len(inputs), keep_cross_attention=True) as session:
        parts.encode(session, 0, source.input_ids)
        steps = []
        for token in inputs:
            session.step([token])
            steps.append(session.cross_attention(0))
    return np.stack(steps, axis=2)
