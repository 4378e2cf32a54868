"""The plots of a report, as SVG: a figure for each question, a panel for each model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.peers import NAMES
from bench.plan import Unit
from bench.shapes import MODELS, TINY

Units = Mapping[str, Any]
Curves = dict[str, list[tuple[float, float]]]
_COLOURS = dict(zip(NAMES, ("C3", "C0", "C1", "C2", "C4", "C5"), strict=True))


def draw(units: Units, folder: Path, prefix: str) -> dict[str, Path]:
    """Title -> file, of those plots that there are figures for."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, (title, function, x, y, log) in _PLOTS.items():
        panels = {model: curves for model in (*MODELS, *TINY) if (curves := function(units, model))}
        if panels:
            files[title] = folder / f"{prefix}-{name}.svg"
            _draw(panels, files[title], x, y, log)
    return files


def _draw(panels: Mapping[str, Curves], file: Path, x: str, y: str, log: str) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same bytes
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3.6), squeeze=False)
    for axis, (model, curves) in zip(axes[0], panels.items(), strict=True):
        for label, points in curves.items():
            is_bound = label not in _COLOURS
            style = "k--" if is_bound else "o-"
            colour = {} if is_bound else {"color": _COLOURS[label]}
            axis.plot(*zip(*sorted(points), strict=True), style, label=label, **colour)
        axis.set_title(model)
        axis.set_xlabel(x)
        if "x" in log:
            axis.set_xscale("log")
        if "y" in log:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(y)
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)


def _curves(units: Units, at: Mapping[float, Unit], figure: str) -> Curves:
    curves: Curves = {}
    for x, unit in at.items():
        for label, peer in units.get(unit.name, {}).get("peers", {}).items():
            if label in _COLOURS and figure in peer["figures"]:
                curves.setdefault(label, []).append((x, peer["figures"][figure]["median"]))
    return curves


def _quality(units: Units, model: str) -> Curves:
    curves: Curves = {}
    for beams in (1, 4):
        unit = units.get(Unit("quality", 1, model, num_beams=beams).name, {})
        for label, peer in unit.get("peers", {}).items():
            point = (peer["figures"]["total_ms"]["median"], peer["rouge"]["rougeL"])
            curves.setdefault(label, []).append(point)
    return curves


def _bandwidth(units: Units, model: str) -> Curves:
    """Against source length, which decides how many bytes a token needs."""
    at = {source_len: Unit("greedy", 1, model, source_len) for source_len in (16, 64, 512)}
    curves = _curves(units, at, "ms_per_token")
    bound = [
        (float(x), unit["bytes_per_token"] / unit["stream"]["gb_per_s"]["median"] / 1e6)
        for x, one in at.items()
        if "stream" in (unit := units.get(one.name, {}))
    ]
    return {**curves, "read stream": bound} if bound else curves


def _source(units: Units, model: str) -> Curves:
    return _curves(units, {n: Unit("greedy", 1, model, n) for n in (16, 64, 512)}, "total_ms")


def _beams(units: Units, model: str) -> Curves:
    at = {1: Unit("greedy", 1, model), 4: Unit("beam", 1, model, num_beams=4)}
    return _curves(units, at, "total_ms")


def _batch(units: Units, model: str) -> Curves:
    at = {1: Unit("greedy", 1, model), **{n: Unit("batch", 1, model, batch=n) for n in (8, 32)}}
    return _curves(units, at, "tokens_per_s")


def _threads(units: Units, model: str) -> Curves:
    at = {1: Unit("greedy", 1, model), 2: Unit("greedy", 2, model), 3: Unit("busy", 2, model)}
    return _curves(units, at, "ms_per_token")


# Name -> title, function, axes, and which of them are logarithmic.
_PLOTS = {
    "quality": ("Latency against quality: greedy and four beams", _quality, "ms a summary", "ROUGE-L", "x"),
    "bandwidth": ("Time per token against the read stream, 1 thread", _bandwidth, "source tokens",
                  "ms a token", "xy"),
    "source": ("Source length, 1 thread", _source, "source tokens", "ms a request", "xy"),
    "beams": ("Beams, 1 thread", _beams, "beams", "ms a request", "y"),
    "batch": ("Batch, 1 thread", _batch, "sources at once", "tokens/s", "xy"),
    "threads": ("Threads; 3: two, beside a process that keeps one core busy", _threads, "threads",
                "ms a token", "y"),
}  # fmt: skip
