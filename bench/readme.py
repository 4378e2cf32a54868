"""The README's section on speed: what the newest results say, between its marks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import ROOT, first_token
from bench.peers import NAMES
from bench.plan import Unit
from bench.report import newest_results, table, versions
from bench.shapes import DEFAULT, MODELS
from bench.targets import Target, targets

README = ROOT / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
_TITLES = {"t5-small": "T5-small", "marian": "Marian", "bart-base": "BART-base", DEFAULT: "default model"}
# Title of a column, the unit that has it, and the figure.
_COLUMNS = (
    ("ms a token, 1 thread", Unit("greedy", 1), "ms_per_token"),
    ("2 threads", Unit("greedy", 2), "ms_per_token"),
    ("total ms, source of 64, 1 thread", Unit("greedy", 1), "total_ms"),
    ("of 512", Unit("greedy", 1, source_len=512), "total_ms"),
    ("four beams", Unit("beam", 1, num_beams=4), "total_ms"),
    ("s from process start to first token", Unit("cold", 1), "first_token_s"),
    ("MB above import", Unit("cold", 1), "peak_over_import_mb"),
)


def with_speed(document: str, folder: Path) -> str:
    """A README with the tables of each machine's newest results in a folder."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"expected {BEGIN} in the README"
    assert end, f"expected {END} in the README"
    lines = [line for results in newest_results(folder)[0].values() for line in _section(results)]
    return "\n".join([before + begin, *lines, end + after])


def _section(results: Mapping[str, Any]) -> list[str]:
    here, units = results["machine"], results["units"]
    return [
        f"{here['cpu']}, {here['cores']} cores; {versions(units)}.",
        "The default model, greedy and with four beams, 64 new tokens, batch 1:",
        "",
        *table(["", *(title for title, _, _ in _COLUMNS)], _peers(units)),
        "",
        "Ratios of medians, ours to theirs, **missed** ones in bold:",
        "",
        *table(["", "goal", *(_TITLES[model] for model in MODELS)], _ratios(units)),
        "",
    ]


def _peers(units: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name in (*NAMES, first_token.LABEL):
        figures = [
            units.get(unit.name, {}).get("peers", {}).get(name, {}).get("figures", {}).get(figure)
            for _, unit, figure in _COLUMNS
        ]
        if any(figures):
            rows.append([name, *(f"{found['median']:.3g}" if found else "" for found in figures)])
    return rows


def _ratios(units: Mapping[str, Any]) -> list[list[str]]:
    """A row for each target, with a column for each model."""
    rows: dict[str, dict[str, Target]] = {}
    for target in targets(units):
        model, _, what = target.what.partition(": ")
        rows.setdefault(what, {})[model] = target
    return [
        [what, _goal(of := next(iter(models.values()))), *(_cell(models.get(model), of) for model in MODELS)]
        for what, models in rows.items()
    ]


def _goal(target: Target) -> str:
    return f"{'≥' if target.at_least else '≤'} {target.limit:.2f}"


def _cell(target: Target | None, usual: Target) -> str:
    """A ratio; with its goal where that is not the usual one."""
    if target is None or target.measured is None:
        return ""
    ratio = f"{target.measured:.2f}"
    if target.verdict.startswith("**"):
        ratio = f"**{ratio}**"
    if target.verdict.endswith("disturbed"):
        ratio += " (disturbed)"
    return ratio if target.limit == usual.limit else f"{ratio} ({_goal(target)})"
