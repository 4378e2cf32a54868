"""Golden cases hold on every CPU, however it rounds the encoder's floats."""

import json
from collections.abc import Iterator

import pytest

import edge_s2s
from edge_s2s.bundle import Bundle, open_bundle
from edge_s2s_export.candidate import Candidate
from edge_s2s_export.errors import GateError
from edge_s2s_export.golden import N_ROUNDINGS, Answer, answers, golden_cases, rounded_otherwise
from edge_s2s_export.probe_texts import probe_texts

DEFAULT = edge_s2s.default_bundle_path()
needs_default = pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")


@pytest.fixture(scope="module")
def bundle() -> Iterator[Bundle]:
    with open_bundle(DEFAULT) as opened:
        yield opened


@pytest.fixture(scope="module")
def candidate(bundle: Bundle) -> Candidate:
    return Candidate(bundle.manifest, {name: bytes(bundle.read(name)) for name in bundle.manifest.files})


@needs_default
def test_the_default_bundles_cases_hold_for_roundings_that_chose_none_of_them(
    bundle: Bundle, candidate: Candidate
):
    for case in bundle.golden():
        for rounding in range(N_ROUNDINGS + 1, N_ROUNDINGS + 9):
            cross_kv = candidate.encode(case.input_ids, rounding=rounding)
            assert candidate.margins(cross_kv, case.token_ids).min() > 0, case.text


@needs_default
def test_some_winners_hang_on_the_encoders_last_bits(candidate: Candidate):
    clear = [a for a in answers(candidate, probe_texts(80)) if a.n_clear == len(a.token_ids)]
    assert any(rounded_otherwise(candidate, answer).n_clear < answer.n_clear for answer in clear)


def test_cases_are_filled_up_with_clear_beginnings_where_whole_answers_are_rare():
    clear = {"unclear": (1, 2), "short": (4, 5), "long": (7, 8), "whole": (3, 3), "turns": (5, 5)}

    def play(texts: list[str]) -> list[Answer]:
        return [Answer(text, [1], [5] * clear[text][1], clear[text][0]) for text in texts]

    def confirm(answer: Answer) -> Answer:
        return answer._replace(n_clear=2) if answer.text == "turns" else answer

    cases = json.loads(golden_cases(play(["unclear", *["short"] * 7, "turns", "whole", "long"]), confirm))
    assert [case["text"] for case in cases["cases"]] == ["whole", "long", *["short"] * 6]
    assert [len(case["token_ids"]) for case in cases["cases"]] == [3, 7, *[4] * 6]
    with pytest.raises(GateError, match="7 of 9 texts"):
        golden_cases(play(["unclear", *["short"] * 5, "turns", "whole", "long"]), confirm)
