"""The report of a build: Markdown with tables, samples and plots; the model card has a part of it."""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from .datasets import Row
from .evaluation import ROUGES
from .measurement import METRICS, SYSTEMS, Document, measure
from .outputs import Output
from .recipe import Recipe

N_SAMPLES = 20
MAX_SOURCE = 600  # characters of a sample
_SHARES = ("unsupported_names", "unsupported_numbers", "loops", "slot_error_rate")


def write_report(
    recipe: Recipe,
    folder: Path,
    rows: Sequence[Row],
    *,
    bundles: Mapping[str, Path],
    outputs: Mapping[str, Sequence[Output]],
    logs: Mapping[str, Path],
) -> None:
    """Measures, and writes eval.json, report.md, model_card.md and plots, and build.json for the build."""
    document, extensions = measure(recipe, rows, bundles, outputs)
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / "eval.json").write_text(text + "\n", encoding="utf-8")
    for_build = {"refused": document["refused"], "extensions": extensions}
    (folder / "build.json").write_text(json.dumps(for_build, sort_keys=True), encoding="utf-8")
    (folder / "model_card.md").write_text(_quality(recipe, document), encoding="utf-8")
    milliseconds = {system: _median([output.ms for output in outputs[system]]) for system in SYSTEMS}
    _plot_curves(folder / "curves.png", logs)
    _plot_quality(folder / "quality.png", recipe, document, milliseconds)
    _plot_risk(folder / "risk.png", document["confidence"])
    parts = [
        f"# {recipe.name} {recipe.version}",
        _verdict(document),
        _quality(recipe, document),
        _other_sets(recipe, document),
        _confidence(document["confidence"]),
        "## Training\n\n![losses](curves.png)\n\n" + _gaps(logs),
        "## Size and speed\n\n![quality against size and time](quality.png)",
        _samples(rows, outputs),
    ]
    (folder / "report.md").write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")


def _verdict(document: Document) -> str:
    lines = [
        f"| {gate['name']} | {gate['value']:.4g} | {'>=' if gate['is_least'] else '<='} {gate['limit']:g} |"
        f" {'passes' if gate['passes'] else '**fails**'} |"
        for gate in document["gates"]
    ]
    verdict = "Refused." if document["refused"] else "All gates pass."
    return "\n".join([f"{verdict}\n", "| gate | value | limit | |", "|---|---|---|---|", *lines])


def _quality(recipe: Recipe, document: Document) -> str:
    """The main set: systems and baselines, what int8 and distillation cost."""
    main = document["sets"][recipe.main.name]
    agreement = document["agreement"]
    changes = [
        f"| {name} | " + " | ".join(_signed(values[metric]) for metric in METRICS) + " |"
        for name, values in main["changes"].items()
    ]
    return "\n".join(
        [
            f"## Quality on {recipe.main.name}, {main['n_rows']} rows of valid", "",
            *_table(main), "",
            f"BLEU: {document['metrics']['bleu']}. ROUGE: {document['metrics']['rouge']}.",
            "teacher, float32 and int8 are bundles, run by edge_s2s;"
            " shuffled: outputs of int8, each for another source.", "",
            "| change | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS), *changes, "",
            f"Intervals: {document['metrics']['intervals']}.", "",
            f"int8 and float32 have the same best token in {agreement['argmax']:.2%} of"
            f" {agreement['n_tokens']} steps (KL mean {agreement['mean_kl']:.4f}, 99th percentile"
            f" {agreement['high_kl']:.4f} nats) and the same output for {agreement['identical']:.1%} of the"
            " rows.",
        ]
    )  # fmt: skip


def _table(of_set: Document) -> list[str]:
    shares = [name for name in _SHARES if name in of_set["references"]]
    named = [name.replace("_", " ") for name in shares]
    head = [*METRICS, "best of references, rouge1 / 2 / L", "chrf", "length ratio", *named]
    lines = [f"| system | {' | '.join(head)} |", "|---|" + "---|" * len(head)]
    for name, values in of_set["systems"].items():
        cells = [_with_interval(values[metric]) for metric in METRICS]
        cells.append(" / ".join(f"{values[f'{metric}_max']:.1f}" for metric in ROUGES))
        cells += [f"{values['chrf']:.1f}", f"{values['length_ratio']:.2f}"]
        cells += [f"{values[share]:.2%}" for share in shares]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    cells = ["-"] * (len(METRICS) + 3) + [f"{of_set['references'][share]:.2%}" for share in shares]
    return [*lines, f"| first references | {' | '.join(cells)} |"]


def _other_sets(recipe: Recipe, document: Document) -> str:
    parts = [
        "\n".join([f"### {name}, {of_set['n_rows']} rows", "", *_table(of_set)])
        for name, of_set in document["sets"].items()
        if name != recipe.main.name
    ]
    return "\n\n".join(["## Other sets", *parts]) if parts else ""


def _confidence(found: Document) -> str:
    if not found:
        return "## Confidence\n\nToo few rows to fit it, or all are equally good."
    sets = [*found["methods"]["learned"]["auroc_of_set"]]
    names = [name for name in sets if len(sets) > 1]
    lines = [
        f"| {name} | {method['auroc']:.3f} | {method['aurc']:.3f} |"
        + "".join(f" {method['auroc_of_set'][of]:.3f} |" for of in names)
        for name, method in found["methods"].items()
    ]
    return "\n".join(
        [
            "## Confidence", "",
            f"An answer is good if {found['good']}, the median of {found['n_rows']} rows;",
            "each row is judged by a fit to the others.",
            "AUROC: how often a good answer has more confidence than a bad one.",
            "AURC: mean of 1 - score / 100 over all shares of answers kept.", "",
            "| by | AUROC | AURC |" + "".join(f" AUROC in {name} |" for name in names),
            "|---|---|---|" + "---|" * len(names), *lines, "",
            f"careful: with {found['n_draws']} draws.",
            "Calibration error of P(good): "
            + ", ".join(f"{name} {error:.3f}" for name, error in found["ece"].items()) + ".", "",
            "![risk against coverage](risk.png)",
        ]
    )  # fmt: skip


def _samples(rows: Sequence[Row], outputs: Mapping[str, Sequence[Output]]) -> str:
    chosen = sorted(random.Random(0).sample(range(len(rows)), min(N_SAMPLES, len(rows))))
    parts = ["## Samples, drawn at random"]
    for i in chosen:
        texts = {"source": rows[i].source[:MAX_SOURCE], "reference": rows[i].targets[0]}
        texts |= {system: outputs[system][i].text for system in SYSTEMS}
        lines = [f"{name}: {text}".replace("\n", "\n  ") for name, text in texts.items()]
        parts.append("\n".join([f"{rows[i].set}, {rows[i].id}", "```", *lines, "```"]))
    return "\n\n".join(parts)


def _gaps(logs: Mapping[str, Path]) -> str:
    """How far the source is read: the last loss with the right one and with another row's."""
    lines = ["| run | steps | tokens | valid loss | with a wrong source |", "|---|---|---|---|---|"]
    for name, path in logs.items():
        last = read_log(path)[-1]
        lines.append(
            f"| {name} | {last['step']:.0f} | {last['tokens'] / 1e6:.2f} M | {last['valid_loss']:.3f} |"
            f" {last['wrong_source_loss']:.3f} |"
        )
    return "\n".join(lines)


def _plot_curves(path: Path, logs: Mapping[str, Path]) -> None:
    figure, axes = plt.subplots(1, max(len(logs), 1), figsize=(5 * max(len(logs), 1), 3.5), squeeze=False)
    for axis, (name, log) in zip(axes[0], logs.items(), strict=False):
        rows = read_log(log)
        for column in ("loss", "valid_loss", "wrong_source_loss"):
            axis.plot([row["tokens"] / 1e6 for row in rows], [row[column] for row in rows], label=column)
        axis.set(title=name, xlabel="million tokens", ylabel="nats a label")
        axis.legend()
    _save(figure, path)


def _plot_quality(path: Path, recipe: Recipe, document: Document, milliseconds: Mapping[str, float]) -> None:
    metric = recipe.metrics[0]
    systems = document["sets"][recipe.main.name]["systems"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axis, (label, values) in zip(
        axes, (("MB", document["size_mb"]), ("ms a row, median", milliseconds)), strict=True
    ):
        for system in SYSTEMS:
            value, low, high = systems[system][metric]
            axis.errorbar(values[system], value, [[value - low], [high - value]], fmt="o", label=system)
        axis.axhline(systems["lead-1"][metric][0], linestyle=":", color="grey", label="lead-1")
        axis.set(xlabel=label, ylabel=metric)
    axes[0].legend()
    _save(figure, path)


def _plot_risk(path: Path, found: Document) -> None:
    figure, axis = plt.subplots(figsize=(5, 3.5))
    for name, risks in found.get("risk_at_coverage", {}).items():
        axis.plot(range(5, 101, 5), risks, label=name)
    axis.set(xlabel="answers kept, %", ylabel="1 - score / 100")
    axis.legend() if found else axis.set_axis_off()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a training's log.csv, by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def _with_interval(values: Sequence[float]) -> str:
    value, low, high = values
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _signed(values: Sequence[float]) -> str:
    value, low, high = values
    return f"{value:+.2f} ({low:+.2f} to {high:+.2f})"


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
