"""The README's table of promises, with the counts of the last release run.

    pytest -m release && python tests/promises.py

rewrites it from `reports/*.json`; `test_docs.py` checks that it was done.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- promises: begin -->", "<!-- promises: end -->"

Report = dict[str, Any]


@dataclass(frozen=True)
class Promise:
    """A row: a sentence that a user can quote, the report that backs it, and its counts in words."""

    sentence: str
    report: str
    counts: Callable[[Report], str]


def _file_faults(report: Report) -> str:
    counts = [form["counts"] for form in report.values()]
    total = sum(sum(c.values()) - c["calls"] - c["power cuts"] for c in counts)
    cuts = sum(c["power cuts"] for c in counts)
    broken = sum(len(form["broken"]) for form in report.values())
    return f"{total:,} failed or killed calls, {cuts:,} power cuts: {broken} broken bundles"


PROMISES = [
    Promise(
        "A bundle on the disk is the old one or the new one, whatever fails while it is written",
        "file_faults",
        _file_faults,
    ),
    Promise(
        "Threads share a model and get the answers of serial calls",
        "endurance",
        lambda report: "32 threads x 200 requests: all equal",
    ),
    Promise("A process that forks never hangs", "endurance", lambda report: "200 forks: 0 hangs"),
    Promise(
        "Whoever stops listening is obeyed within one step",
        "endurance",
        lambda report: f"1,000 cancels: 99 % within {report['1,000 cancels']['p99_ms']} ms",
    ),
    Promise(
        "Memory, descriptors and threads do not grow",
        "endurance",
        lambda report: f"20,000 requests: {report['20,000 requests']['rss'] / 1024:,.0f} KiB more",
    ),
]


def table() -> str:
    """The table in Markdown, of those reports that are there."""
    lines = ["| promise | last release run | report |", "|---|---|---|"]
    for promise in PROMISES:
        path = ROOT / "reports" / f"{promise.report}.json"
        if path.exists():
            counts = promise.counts(json.loads(path.read_text(encoding="utf-8")))
            lines.append(f"| {promise.sentence} | {counts} | `reports/{path.name}` |")
    return "\n".join(lines)


def with_table(readme: str) -> str:
    """A README with the table between its marks."""
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
