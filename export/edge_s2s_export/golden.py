"""The golden cases: inputs whose answers a device must reproduce to prove that all parts work on its CPU.

The C core has the same bits everywhere, ONNX Runtime has not: on AArch64 it adds up a norm's mean in another
order. One unit in the last place turns one activation code of a layer round, and behind it hundreds: keys and
values then differ by as much as int8 costs (cosine 0.9998), a margin by 0.08 (standard deviation) and up to
0.25. A case has to hold for all of that.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from edge_s2s.decoder import Floats

from .candidate import Candidate
from .errors import GateError

MIN_MARGIN = 0.2  # between best and second logit at every step, however the encoder is rounded
N_ROUNDINGS = 16  # of them: other CPUs, as far as one can be had here
N_CASES = 12
MIN_CASES = 8
MIN_STEPS = 4  # of a beginning


class Answer(NamedTuple):
    """What greedy search makes of a text."""

    text: str
    input_ids: list[int]
    token_ids: list[int]
    n_clear: int  # tokens before the first without `MIN_MARGIN`


def answers(candidate: Candidate, texts: Iterable[str]) -> Iterator[Answer]:
    """The candidate's answer to each text."""
    for text in texts:
        input_ids = candidate.tokenizer.encode(text)
        cross_kv = candidate.encode(input_ids)
        token_ids = candidate.greedy(cross_kv)
        yield Answer(text, input_ids, token_ids, _n_clear(candidate, cross_kv, token_ids))


def rounded_otherwise(candidate: Candidate, answer: Answer) -> Answer:
    """The same answer with `n_clear` for all of `N_ROUNDINGS` ways to round the encoder."""
    n_clear = answer.n_clear
    for rounding in range(1, N_ROUNDINGS + 1):
        if n_clear == 0:
            break
        cross_kv = candidate.encode(answer.input_ids, rounding=rounding)
        n_clear = _n_clear(candidate, cross_kv, answer.token_ids[:n_clear])
    return answer._replace(n_clear=n_clear)


def _n_clear(candidate: Candidate, cross_kv: Floats, token_ids: list[int]) -> int:
    is_clear = candidate.margins(cross_kv, token_ids) >= MIN_MARGIN
    return [*is_clear, False].index(False)


def golden_cases(answers: Iterable[Answer], confirm: Callable[[Answer], Answer]) -> bytes:
    """golden.json: the first `N_CASES` answers with a clear winner at every step.

    Where answers are long, few have that: `MIN_CASES` are then reached with the longest clear beginnings of
    others. A step where a rule, such as a forbidden n-gram, changed the best token does not count as clear.
    `confirm` is asked about those that are about to be taken, and may find fewer clear steps.
    Raises `GateError` if there are fewer than `MIN_CASES` even so.
    """
    whole: list[Answer] = []
    beginnings: list[Answer] = []
    n_tried = 0
    for answer in answers:
        n_tried += 1
        if _is_clear(answer):
            answer = confirm(answer)
        (whole if _is_clear(answer) else beginnings).append(answer)
        if len(whole) == N_CASES:
            break
    beginnings.sort(key=lambda answer: -answer.n_clear)
    confirmed = (answer for answer in map(confirm, beginnings) if answer.n_clear >= MIN_STEPS)
    taken = [*whole, *islice(confirmed, max(0, MIN_CASES - len(whole)))]
    if len(taken) < MIN_CASES:
        raise GateError(
            f"golden cases: {len(taken)} of {n_tried} texts have a margin >= {MIN_MARGIN} for {MIN_STEPS} "
            f"steps, expected at least {MIN_CASES}; give more texts of the model's own kind"
        )
    cases = [
        {"text": text, "input_ids": input_ids, "token_ids": token_ids[:n_clear]}
        for text, input_ids, token_ids, n_clear in taken
    ]
    return json.dumps({"cases": cases}, ensure_ascii=False, indent=1).encode() + b"\n"


def _is_clear(answer: Answer) -> bool:
    return answer.n_clear == len(answer.token_ids)
