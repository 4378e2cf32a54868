"""One page of Markdown from all result files: targets, tables, plots, settings; losses included."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench import plots
from bench.peers import OURS
from bench.results_file import Results, ResultsError, file_stem, read
from bench.targets import targets

Row = list[str]


def write_report(folder: Path, out: Path) -> list[str]:
    """Writes the page and its plots, which lie beside it.

    Returns what was left out, in words. Raises ResultsError if there is nothing to report.
    """
    newest, left_out = newest_results(folder)
    lines = ["# Speed against named peers", "", *_INTRODUCTION]
    for results in newest.values():
        name = file_stem(results["machine"]["cpu"])
        pictures = plots.draw(results["units"], out.parent / "plots", name)
        lines += ["", *page(results, {title: f"plots/{file.name}" for title, file in pictures.items()})]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return left_out


def newest_results(folder: Path) -> tuple[dict[str, Results], list[str]]:
    """The newest results of each machine, in the order of their names, and what was left out, in words.

    Raises ResultsError if there are none.
    """
    newest: dict[str, Results] = {}
    left_out = []
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        try:
            results = read(path)
        except ResultsError as error:
            left_out.append(str(error))
            continue
        older = newest.get(results["machine"]["cpu"])
        if results["units"] and (older is None or older["runs"][-1]["date"] <= results["runs"][-1]["date"]):
            newest[results["machine"]["cpu"]] = results
    if not newest:
        raise ResultsError(f"no results in {folder}; run `python -m bench run` first")
    return dict(sorted(newest.items())), left_out


_INTRODUCTION = [
    "Written by `python -m bench report`; do not edit.",
    "Every figure is a median over interleaved rounds, with the 10th and 90th percentile.",
    "Rounds in which other processes used more than a tenth of a core were repeated.",
    "Everybody converts the same weights, gets the same token ids, writes as many tokens, and runs",
    "in a process of its own. `onnxruntime` is a loop written by hand for this comparison, `stream` a plain",
    "read of as many bytes as a token needs.",
]


def page(results: Results, pictures: Mapping[str, str]) -> list[str]:
    """All about one machine."""
    here, units = results["machine"], results["units"]
    lines = [f"## {here['cpu']}, {here['cores']} cores", ""]
    lines += [f"{here['system']}, Python {here['python']}, {versions(units)}.", ""]
    lines += [f"* `{run['command']}` ({run['date']}, commit {run['commit']})" for run in results["runs"]]
    if results["quick"]:
        lines += ["", "**A quick run of tiny models, which says nothing about speed.**"]
    noisy = [name for name, unit in units.items() if not unit.get("quiet", True)]
    if noisy:
        lines += ["", f"**Disturbed by other processes, measure again:** {', '.join(noisy)}."]
    lines += ["", "### Targets", "", *target_table(units)]
    for title, file in pictures.items():
        lines += ["", f"### {title}", "", f"![{title}]({file})"]
    lines += ["", "### All figures", "", *unit_tables(units)]
    lines += ["", "### Settings", "", *_setting_table(results["settings"])]
    if results["failed"]:
        lines += ["", "### What did not run", ""]
        lines += [f"* {what}: {reason}" for what, reason in results["failed"].items()]
    return lines


def target_table(units: Mapping[str, Any]) -> list[str]:
    """Markdown."""
    rows = []
    for target in targets(units):
        ratio = target.measured
        rows.append([
            target.what,
            f"{'>=' if target.at_least else '<='} {target.limit:.2f}",
            "-" if ratio is None else f"{ratio:.2f}",
            str(target.ours or "-"),
            str(target.theirs or "-"),
            target.verdict,
        ])  # fmt: skip
    return table(["target", "limit", "measured", "ours", "theirs", ""], rows)


def unit_tables(units: Mapping[str, Any]) -> list[str]:
    """Markdown, a table for each kind of unit; what a unit lacks is a dash."""
    kinds: dict[str, list[Row]] = {}
    headers: dict[str, list[str]] = {}
    for name, unit in units.items():
        kind, _, rest = name.partition("/")
        flat = _flat(unit)
        columns = headers.setdefault(kind, [])
        columns += [c for c in dict.fromkeys(c for _, figures in flat for c in figures) if c not in columns]
        for label, figures in flat:
            kinds.setdefault(kind, []).append([rest, label, figures])  # type: ignore[list-item]
    lines = []
    for kind, rows in kinds.items():
        columns = headers[kind]
        cells = [[rest, label, *(figures.get(column, "-") for column in columns)]  # type: ignore[attr-defined]
                 for rest, label, figures in rows]  # fmt: skip
        lines += [f"**{kind}**", "", *table([kind, "", *columns], cells), ""]
    return lines


def _flat(unit: Mapping[str, Any]) -> list[tuple[str, dict[str, str]]]:
    """Who -> name of a figure -> text."""
    if "figures" in unit:
        return [(OURS if "import_s" in unit["figures"] else "machine", _texts(unit["figures"]))]
    if "isas" in unit:
        return [(isa, _texts(figures)) for isa, figures in unit["isas"].items()]
    rows = []
    for label, peer in unit["peers"].items():
        extra = {name: f"{peer[name]:.1f}" for name in ("disk_mb",) if name in peer}
        extra |= {name: f"{value:.1f}" for name, value in peer.get("rouge", {}).items()}
        for name in ("other_tokens", "other_texts"):
            if name in peer:
                extra[name] = f"{peer[name]:.0%}"
        rows.append((label, _texts(peer["figures"]) | extra))
    if "stream" in unit:
        gb_per_s = unit["stream"]["gb_per_s"]
        bound = unit["bytes_per_token"] / gb_per_s["median"] / 1e6
        texts = {"ms_per_token": f"{bound:.3g}"}
        rows.append((f"stream, {unit['bytes_per_token'] / 1e6:.1f} MB at {_text(gb_per_s)} GB/s", texts))
    return rows


def _texts(figures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    return {name: _text(figure) for name, figure in figures.items()}


def _text(figure: Mapping[str, float]) -> str:
    return f"{figure['median']:.4g} ({figure['p10']:.4g}-{figure['p90']:.4g})"


def _setting_table(settings: Mapping[str, Any]) -> list[str]:
    rows = []
    for where, of_peers in settings.items():
        for name, found in of_peers.items():
            if tried := found.get("total_ms"):
                times = ", ".join(
                    f"{words} {ms:.4g} ms" for words, ms in sorted(tried.items(), key=lambda x: x[1])
                )
                rows.append([where, name, times])
    return table(["model and threads", "peer", "a whole request, fastest first; the first is measured"], rows)


def versions(units: Mapping[str, Any]) -> str:
    """Of all peers that were measured."""
    found: dict[str, str] = {}
    for unit in units.values():
        for peer in unit.get("peers", {}).values():
            found |= peer["versions"] or {}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return [lines[0], "|---" * (lines[0].count("|") - 1) + "|", *lines[1:]]


def flatten(results: Results) -> dict[str, float]:
    """Medians by name, for `compare`."""
    found = {}
    for name, unit in results["units"].items():
        groups = {label: peer["figures"] for label, peer in unit.get("peers", {}).items()}
        groups |= unit.get("isas", {})
        groups |= {name_: {**unit[name_]} for name_ in ("figures", "stream") if name_ in unit}
        for label, figures in groups.items():
            found |= {f"{name} {label} {figure}": v["median"] for figure, v in figures.items()}
    return found
