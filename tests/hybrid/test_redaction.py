"""Redaction against entities made from their specifications and by Faker, and against ordinary text."""

import io
import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from edge_s2s.hybrid.redaction import redact
from hybrid.entities import faked, made

DATA = Path(os.environ.get("EDGE_S2S_DATA", Path(__file__).parents[3] / "shared" / "data"))
REPORT = Path(__file__).parents[2] / "reports" / "redaction.json"
SENTENCES = (
    "Please use {} from now on.", "It is {}, isn't it?", "({})", "{}: that was the last one",
    "Old: {}; new: none.",
    "#Person1#: I wrote {} down.\n#Person2#: Good.", '"{}"', "Is it still {}?",
)  # fmt: skip
HOSTILE = {
    "at signs": "a@", "domains": "a@a.", "digits": "1", "spaced digits": "1 ", "colons": ":", "hex": "ab:",
    "keys": "-----BEGIN PRIVATE KEY-----", "names": "password:", "queries": "?a=", "urls": "://",
    "dots": "1.",
    "ibans": "DE12 ", "brackets": "(", "tokens": "ab12", "jwt": "eyJaaaaaaaaa.", "blanks": " ",
    "placeholders": "<EMAIL_",
}  # fmt: skip


needs_data = pytest.mark.skipif(
    not (DATA / "dialogsum").exists(), reason="the data sets are not there (EDGE_S2S_DATA)"
)


def find_all(n_made: int, n_faked_each: int) -> dict[str, Any]:
    """How many entities, in sentences, are found, and what else is."""
    rng = random.Random(1)
    by_faker = list(faked(n_faked_each))
    entities = [*itertools.islice(made(3), n_made), *by_faker]
    found = spurious = 0
    missed = []
    for kind, entity in entities:
        redacted = redact(rng.choice(SENTENCES).format(entity))
        hit = any(entity in value for value in redacted.placeholders.values())
        found += hit
        spurious += len(redacted.placeholders) - hit
        missed += [] if hit else [(kind, entity)]
    kinds = Counter(kind for kind, _ in entities)
    n_missed = Counter(kind for kind, _ in missed)
    return {
        "entities": len(entities),
        "by_faker": len(by_faker),
        "recall": found / len(entities),
        "precision": found / (found + spurious),
        "recall_of_kind": {kind: round(1 - n_missed[kind] / n, 4) for kind, n in kinds.items()},
        "missed": missed[:20],
    }


def check_counts(counts: dict[str, Any]) -> None:
    assert counts["recall"] >= 0.99, counts["missed"]
    assert counts["precision"] >= 0.95
    assert min(counts["recall_of_kind"].values()) >= 0.98, counts["recall_of_kind"]


def test_of_9000_entities_99_percent_are_found_and_95_percent_of_finds_are_entities():
    counts = find_all(6510, 20)
    assert counts["entities"] >= 8000
    assert counts["by_faker"] >= 2000
    check_counts(counts)


@pytest.mark.release
@needs_data
def test_so_are_those_of_100000_and_of_all_lines_of_the_data():
    counts = find_all(70_000, 300)
    read = list(lines())
    touched = sum(bool(redact(line).placeholders) for line in read)
    report = {
        name: counts[name] for name in ("entities", "by_faker", "recall", "precision", "recall_of_kind")
    }
    REPORT.write_text(json.dumps({**report, "lines": len(read), "lines_touched": touched}, indent=2) + "\n")
    check_counts(counts)
    assert touched < 0.01 * len(read)


def lines() -> Iterator[str]:
    for name in ("dialogsum", "scitldr", "mts_dialog", "disfl_qa", "qmsum_span", "acl_abstract_title"):
        with (DATA / name / "valid.jsonl.zst").open("rb") as packed:
            for row in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8"):
                yield from filter(str.strip, json.loads(row)["source"].split("\n"))


@needs_data
def test_less_than_one_percent_of_10000_lines_of_text_are_touched():
    read = list(itertools.islice(lines(), 10_000))
    touched = [line for line in read if redact(line).placeholders]
    assert len(read) == 10_000
    assert len(touched) < 100, touched[:20]


@pytest.mark.parametrize(
    "text",
    [
        "On 2020-10-11 at 10:30 we met 1,234,567 people, 3.14159 each, for $12345678.",
        "Pages 1999-2003, 100 000 000 euros, 12.05.1999, version 2.0.1, std::string and a::b.",
        "The x86_64-linux-gnu build of state-of-the-art-2023 systems, #12345678, 50 60 70.",
        "Token: something. Secret: unknown. Password: forgotten",
    ],
)
def test_ordinary_text_is_left_alone(text: str):
    assert redact(text).text == text


def test_each_kind_has_placeholders_of_its_own_and_equal_values_share_one():
    text = "a@b.de, c@d.de, a@b.de; 10.0.0.1; https://u:pw@h.de/?token=xyz123&page=2; Heron heron-like"
    redacted = redact(text, ["heron"])
    assert redacted.text == (
        "<EMAIL_1>, <EMAIL_2>, <EMAIL_1>; <IP_1>; https://<CREDENTIALS_1>/?token=<SECRET_1>&page=2; "
        "<PRIVATE_1> <PRIVATE_2>-like"
    )
    assert redacted.counts == {"EMAIL": 2, "IP": 1, "CREDENTIALS": 1, "SECRET": 1, "PRIVATE": 2}
    assert redacted.restore(redacted.text) == text


def test_nothing_of_two_overlapping_entities_is_left():
    assert redact("ann@acme.example.org", ["acme"]).text == "<PRIVATE_1>"


def test_a_deny_list_matches_whole_words_in_any_case_and_across_line_ends():
    redacted = redact("PROJECT\nheron, Project Herons", ["Project Heron"])
    assert redacted.text == "<PRIVATE_1>, Project Herons"
    with pytest.raises(ValueError, match="blank"):
        redact("x", ["a", " "])


@pytest.mark.parametrize(
    "returned",
    ["<EMAIL_1>", "<email_1>", "<Email 1>", "< EMAIL_1 >", "[EMAIL_1]", "<EMAIL-1>", "<EMAIL1>", "EMAIL_1",
     "email_1", r"<EMAIL\_1>", "&lt;EMAIL_1&gt;", "{EMAIL_1}", "<EMAIL_01>"],
)  # fmt: skip
def test_a_placeholder_that_came_back_changed_is_restored_exactly(returned: str):
    assert redact("Mail a@b.de.").restore(f"Write to {returned}, now.") == "Write to a@b.de, now."


@pytest.mark.parametrize("answer", ["email 1 of them", "the emails_1", "<EMAIL_2>", "EMAIL_12", "<EMAIL_1x>"])
def test_what_is_no_placeholder_of_this_text_is_not_restored(answer: str):
    assert redact("Mail a@b.de.").restore(answer) == answer


def test_unknown_placeholders_of_an_answer_are_named():
    redacted = redact("Mail a@b.de.")
    assert redacted.unknown_placeholders("<EMAIL_1> and <email 2>") == ["<email 2>"]


def test_placeholders_that_the_text_has_already_are_not_used():
    text = "Literally <EMAIL_1>, and a@b.de"
    redacted = redact(text)
    assert redacted.text == "Literally <EMAIL_1>, and <EMAIL_2>"
    assert redacted.restore(redacted.text) == text


def test_3000_answers_of_all_entities_are_restored_exactly():
    entities = [entity for _, entity in itertools.islice(made(11), 3000)]
    text = "\n".join(entities)
    redacted = redact(text)
    assert redacted.restore(redacted.text) == text
    assert redacted.restore(redacted.text.lower().replace("_", " ")) == redacted.restore(
        redacted.text.lower()
    )


def test_originals_are_not_in_the_repr():
    assert "a@b.de" not in repr(redact("Mail a@b.de."))


@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_proportional_to_the_length(name: str):
    def seconds(n: int) -> float:
        text = (HOSTILE[name] * (n // len(HOSTILE[name]) + 1))[:n]
        start = time.process_time()
        redact(text)
        return time.process_time() - start

    # A quadratic pattern would take 16 times as long for 4 times the text; a busy machine adds less.
    small = max(min(seconds(25_000) for _ in range(3)), 1e-3)
    assert min(seconds(100_000) for _ in range(2)) / small < 9
