"""The golden cases: inputs whose answers a device must reproduce to prove that all parts work on its CPU."""

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .candidate import Candidate, Greedy
from .errors import GateError

MIN_MARGIN = 0.1  # between best and second logit at every step: rounding on another CPU cannot turn it round
N_CASES = 12
MIN_CASES = 8
MIN_STEPS = 4  # of a beginning


class Answer(NamedTuple):
    """What greedy search makes of a text."""

    text: str
    input_ids: list[int]
    greedy: Greedy


def answers(candidate: Candidate, texts: Iterable[str]) -> Iterator[Answer]:
    """The candidate's answer to each text."""
    for text in texts:
        input_ids = candidate.tokenizer.encode(text)
        yield Answer(text, input_ids, candidate.greedy(candidate.encode(input_ids)))


def golden_cases(answers: Iterable[Answer]) -> bytes:
    """golden.json: the first `N_CASES` answers with a clear winner at every step.

    Where answers are long, few have that: `MIN_CASES` are then reached with the longest clear beginnings of
    others. A step where a rule, such as a forbidden n-gram, changed the best token does not count as clear.
    Raises `GateError` if there are fewer than `MIN_CASES` even so.
    """
    whole: list[Answer] = []
    beginnings: list[tuple[int, Answer]] = []  # number of clear steps, answer
    n_tried = 0
    for answer in answers:
        n_tried += 1
        steps = zip(answer.greedy.is_best, answer.greedy.margins, strict=True)
        is_clear = [is_best and margin >= MIN_MARGIN for is_best, margin in steps]
        n_clear = [*is_clear, False].index(False)
        if n_clear == len(is_clear):
            whole.append(answer)
        elif n_clear >= MIN_STEPS:
            beginnings.append((n_clear, answer))
        if len(whole) == N_CASES:
            break
    cases = [_case(answer, len(answer.greedy.token_ids)) for answer in whole]
    beginnings.sort(key=lambda beginning: -beginning[0])
    cases += [_case(answer, n_clear) for n_clear, answer in beginnings[: max(0, MIN_CASES - len(cases))]]
    if len(cases) < MIN_CASES:
        raise GateError(
            f"golden cases: {len(cases)} of {n_tried} texts have a margin >= {MIN_MARGIN} for {MIN_STEPS} "
            f"steps, expected at least {MIN_CASES}; give more texts of the model's own kind"
        )
    return json.dumps({"cases": cases}, ensure_ascii=False, indent=1).encode() + b"\n"


def _case(answer: Answer, n_tokens: int) -> dict[str, object]:
    token_ids = answer.greedy.token_ids[:n_tokens]
    return {"text": answer.text, "input_ids": answer.input_ids, "token_ids": token_ids}
