"""The golden cases: inputs whose answers a device must reproduce to prove that all parts work on its CPU."""

import json
from collections.abc import Iterable

from .candidate import Candidate
from .errors import GateError

MIN_MARGIN = 0.1  # between best and second logit at every step: rounding on another CPU cannot turn it round
N_CASES = 12
MIN_CASES = 8


def golden_cases(candidate: Candidate, texts: Iterable[str]) -> bytes:
    """golden.json: the first `N_CASES` of `texts` that have a clear winner at every step of greedy search.

    A step where a rule, such as a forbidden n-gram, changed the best token does not count as clear. Raises
    `GateError` if there are fewer than `MIN_CASES`.
    """
    cases: list[dict[str, object]] = []
    n_tried = 0
    for text in texts:
        n_tried += 1
        input_ids = candidate.tokenizer.encode(text)
        greedy = candidate.greedy(candidate.encode(input_ids))
        if all(greedy.is_best) and min(greedy.margins) >= MIN_MARGIN:
            cases.append({"text": text, "input_ids": input_ids, "token_ids": greedy.token_ids})
        if len(cases) == N_CASES:
            break
    if len(cases) < MIN_CASES:
        raise GateError(
            f"golden cases: {len(cases)} of {n_tried} texts have a margin >= {MIN_MARGIN} at all steps, "
            f"expected at least {MIN_CASES}; give more texts of the model's own kind"
        )
    return json.dumps({"cases": cases}, ensure_ascii=False, indent=1).encode() + b"\n"
