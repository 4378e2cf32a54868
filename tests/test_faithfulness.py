"""Numbers and names that a source does not have, and outputs that go round in circles."""

import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edge_s2s.faithfulness import Evidence, Findings, check, find_loop

DATA = Path(os.environ.get("EDGE_S2S_DATA", Path(__file__).parents[2] / "shared" / "data"))
REPORT = Path(__file__).parent.parent / "reports" / "faithfulness.json"


def rows(name: str) -> Iterator[dict]:
    path = DATA / name / "valid.jsonl.zst"
    if not path.exists():
        pytest.skip("data is not there (EDGE_S2S_DATA)")
    for line in zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines():
        yield json.loads(line)


def new_numbers(output: str, source: str) -> list[str]:
    return [claim.text for claim in Evidence(source).new_numbers(output)]


def new_names(output: str, source: str) -> list[str]:
    return [claim.text for claim in Evidence(source).new_names(output)]


SAME_NUMBER = [
    ("26", "twenty six"),
    ("26", "twenty-six"),
    ("twenty-six", "26"),
    ("1,200", "1200"),
    ("1200", "twelve hundred"),
    ("1200", "one thousand two hundred"),
    ("1.2k", "1200"),
    ("1.2 million", "1,200,000"),
    ("1200000", "1.2m"),
    ("two million three hundred thousand", "2.3 million"),
    ("105", "one hundred and five"),
    ("100", "a hundred"),
    ("50%", "fifty percent"),
    ("50 percent", "half of them"),
    ("$5", "five dollars"),
    ("€ 5.50", "5.5 euros"),
    ("3rd", "the third"),
    ("the twenty-first", "21"),
    ("2008", "two thousand eight"),
    ("1999", "nineteen ninety nine"),
    ("1999", "back in '99 or 1999"),
    ("in '99", "1999"),
    ("3:30", "three thirty"),
    ("3:30 pm", "half past three, at 3"),
    ("9:00", "nine o'clock"),
    ("3.30", "3:30"),
    ("06/19/07", "June nineteenth two thousand seven"),
    ("120/80", "one twenty over eighty"),
    ("98.6", "ninety eight point six"),
    ("2.05", "two point oh five"),
    ("305", "three oh five"),
    ("2", "a couple"),
    ("twice", "two times"),
    ("24", "two dozen"),
    ("12", "at noon"),
    ("007", "7"),
    ("20,000", "20, 000 RMB"),
    ("5kg", "five kilograms"),
    ("5 m", "5 metres"),
    ("1.500", "1500"),
    ("2,5", "2.5"),
    ("9" * 5000, "0" + "9" * 5000),
]


@pytest.mark.parametrize(("output", "source"), SAME_NUMBER)
def test_a_number_is_the_same_however_it_is_written(output: str, source: str):
    assert new_numbers(f"They say {output} here.", f"We know {source} there.") == []


OTHER_NUMBER = [
    ("27", "twenty six", "27"),
    ("5 million", "5 thousand", "5 million"),
    ("1.2k", "1.2 of 12", "1.2k"),
    ("3:45", "3:30", "3:45"),
    ("forty-five", "40 and 6", "forty-five"),
    ("one hundred and six", "105, 106th Street? no: 100 and 5", None),
    ("three hundred", "300 or 3", None),
    ("three hundred", "3", "three hundred"),
    ("seven", "none", "seven"),
    ("the 22nd", "on the 23rd", "22"),
    ("30", "#Person30#: hi", None),
    ("12.5", "12 dollars 50 cents", "12.5"),
    ("10%", "8 % or 15 %", "10"),
]


@pytest.mark.parametrize(("output", "source", "expected"), OTHER_NUMBER)
def test_another_number_is_found(output: str, source: str, expected: str | None):
    found = new_numbers(f"They say {output} here.", f"We know {source} there.")
    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    "output",
    ["One of them left.", "At first she agrees.", "Wait a second.", "1. Rest\n2. Water", "1. Rest. 2. Water.",
     "Meet H2O and the MP3 player.", "Speak to #Person7#."],
)  # fmt: skip
def test_what_only_looks_like_a_number_is_none(output: str):
    assert new_numbers(output, "Nothing here.") == []


@pytest.mark.parametrize(
    ("output", "source", "expected"),
    [
        ("She meets Peter.", "I saw peter today", []),
        ("She meets Peter.", "I saw Paul today", ["Peter"]),
        ("Today Peter's here.", "Peter is", []),
        ("Peter leaves.", "Paul leaves.", []),  # a first word may be any word
        ("Then Parker calls.", "David Paker", []),
        ("Then Stephen calls.", "Steven", ["Stephen"]),
        ("Then Steven calls.", "Stevan", []),
        ("Then Mary calls.", "Marie", ["Mary"]),
        ("#Person3# leaves.", "#Person1#: Hi\n#Person2#: Hi", ["#Person3#"]),
        ("#Person2# leaves.", "#Person1#: Hi\n#Person2#: Hi", []),
        ("ask @anna_b now", "@anna_c", ["@anna_b"]),
        ("an iPad", "a pad", ["iPad"]),
        ("two GANs", "generative adversarial networks", []),
        ("two GANs", "recurrent networks", ["GANs"]),
        ("He takes PT twice", "I got P T twice", []),
        ("Mr. Smith calls.", "a smith", []),
        ("Mr. Smith calls.", "a baker", ["Smith"]),
        ("Dr. Lee and I'm OK.", "Lee", []),
        ("Learning To Rank With Trees", "We rank with trees", []),
        ("Learning To Rank With BERT", "We rank with trees", ["BERT"]),
        ("“Hello” is said. Bonjour is not", "hi", []),
        ("in Łódź", "łódź", []),
    ],
)
def test_names_of_an_output_come_from_its_source(output: str, source: str, expected: list[str]):
    assert new_names(output, source) == expected


def test_the_number_of_speakers_is_a_number_of_the_source():
    source = "Anna: Hi.\nBen: Hello.\nAnna: Bye."
    assert new_numbers("The two leave.", source) == []
    assert new_numbers("The three leave.", source) == ["three"]


def test_a_claim_says_where_it_is():
    output = "Anna pays twenty five dollars to Peter."
    findings = check(output, "Anna: I pay.")
    for claim in (*findings.numbers, *findings.names):
        assert output[claim.start : claim.end] == claim.text
    assert [claim.text for claim in findings.numbers] == ["twenty five"]
    assert [claim.text for claim in findings.names] == ["Peter"]


def test_findings_are_falsy_if_there_is_nothing_to_find():
    assert not check("Anna pays 5.", "Anna: I pay five.")
    assert check("Anna pays 6.", "Anna: I pay five.") == Findings(numbers=((("6", 10, 11)),))


@given(st.text())
def test_a_text_supports_itself(text: str):
    findings = check(text, text)
    assert (findings.numbers, findings.names) == ((), ())


@given(st.integers(0, 10**15 - 1))
def test_a_number_in_words_is_the_one_in_digits(number: int):
    assert new_numbers(f"It is {number:,} today", f"It is {in_words(number)} today") == []
    assert new_numbers(f"It is {in_words(number)} today", f"It is {number} today") == []
    assert new_numbers(f"It is {number + 7}", f"It is {in_words(number)}") != [] or number + 7 < 10


ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"


def in_words(number: int) -> str:
    """As a school book writes it."""
    for value, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand")):
        if number >= value:
            rest = f" {in_words(number % value)}" if number % value else ""
            return f"{in_words(number // value)} {name}{rest}"
    if number >= 100:
        rest = f" and {in_words(number % 100)}" if number % 100 else ""
        return f"{in_words(number // 100)} hundred{rest}"
    if number < 20:
        return ONES.split()[number]
    return TENS.split()[number // 10 - 2] + (f"-{in_words(number % 10)}" if number % 10 else "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He said no no no no.", "row"),
        ("He said no no no.", None),
        ("I think so I think so I think so", "row"),
        ("a b a b a b", "row"),
        ("They are going to go home. They are going to a bar. They are going to sleep.", "phrase"),
        ("They are going to go home. They are going to a bar. They sleep.", None),
        ("ha" * 6, "letters"),
        ("ha" * 5, None),
        ("! " * 6, "letters"),
        ("Title\n------------------\nText", None),
        ("1000000000 people", None),
        ("Call 5 5 5 5 5 now", None),
        ("the cat and the dog and the cat or the dog and a cat or a dog or the dog", "vocabulary"),
        (" ".join(random.Random(3).choices(ONES.split()[:15], k=60)), "vocabulary"),
        ("漢字" * 40, "letters"),
        ("漢字仮名交文日本語" * 20, "compression"),
        ("", None),
    ],
)  # fmt: skip
def test_loops_are_found(text: str, expected: str | None):
    assert find_loop(text) == expected


@pytest.mark.parametrize("name", ["dialogsum", "scitldr"])
def test_no_human_summary_is_called_a_loop(name: str):
    targets = [target for row in rows(name) for target in (row.get("targets") or [row["target"]])]
    assert [target for target in targets if find_loop(target)] == []


HOSTILE = {
    "one letter": "x",
    "digits": "7",
    "groups": "1.",
    "torn groups": "1.1_",
    "mixed": "1a",
    "number words": "one ",
    "scales": "hundred and ",
    "points": "one point oh ",
    "names": "Abcdefgh ",
    "apostrophes": "a'",
    "tags": "#a",
    "stutters": "abababab1",
    "speakers": "a:\n",
    "letters": "A ",
    "phrases": "Who is it? ",
    "blanks": " ",
}


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python a call runs."""
    n_lines = 0

    def trace(_frame: object, event: str, _argument: object) -> object:
        nonlocal n_lines
        n_lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        work()
    finally:
        sys.settrace(before)
    return n_lines


@pytest.mark.parametrize("name", HOSTILE)
def test_work_is_proportional_to_hostile_text(name: str):
    text = HOSTILE[name] * 500
    once = lines_run(lambda: check(text, text))
    twice = lines_run(lambda: check(text * 2, text * 2))
    assert twice <= 2.1 * once + 200


def test_many_new_names_cost_no_more_than_a_few_looks():
    draw = random.Random(1)
    words = ["Qu" + "".join(draw.choices("abcdefgh", k=8)) + "ing" for _ in range(3000)]
    once = lines_run(lambda: check(" ".join(words[:500]), " ".join(words[1500:2000])))
    twice = lines_run(lambda: check(" ".join(words[:1000]), " ".join(words[1500:2500])))
    assert twice <= 2.2 * once


@pytest.mark.release
def test_false_alarms_and_time_on_what_people_wrote():
    """The table in the README of edge_s2s: share of human targets with a finding, and the time of a check."""
    report = {}
    for name in ("dialogsum", "scitldr", "mts_dialog", "e2e_nlg", "qmsum_span", "acl_abstract_title"):
        pairs = [
            (row["source"] + " " + row.get("query", ""), target)
            for row in rows(name)
            for target in (row.get("targets") or [row["target"]])
        ]
        times, findings = [], []
        for source, target in pairs:
            start = time.perf_counter()
            findings.append(check(target, source))
            times.append(1000 * (time.perf_counter() - start))
        report[name] = {
            "targets": len(pairs),
            "number_percent": round(100 * sum(bool(f.numbers) for f in findings) / len(pairs), 1),
            "name_percent": round(100 * sum(bool(f.names) for f in findings) / len(pairs), 1),
            "loop_percent": round(100 * sum(f.loop is not None for f in findings) / len(pairs), 1),
            "median_ms": round(statistics.median(times), 2),
            "p95_ms": round(statistics.quantiles(times, n=20)[-1], 2),
        }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    assert report["dialogsum"]["number_percent"] <= 1
    assert report["dialogsum"]["name_percent"] <= 1
    assert report["mts_dialog"]["number_percent"] <= 10
    assert report["dialogsum"]["median_ms"] < 1


@pytest.mark.release
@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_proportional_to_hostile_text(name: str):
    """The regular expressions, too, which count no lines."""

    def seconds(n: int) -> float:
        text = HOSTILE[name] * (n // len(HOSTILE[name]))
        times = []
        gc.disable()  # its full collections come when they like
        try:
            for _ in range(3):
                start = time.process_time()
                check(text, text)
                times.append(time.process_time() - start)
        finally:
            gc.enable()
        return min(times)

    assert seconds(200_000) <= 3 * seconds(100_000) + 0.05
