"""What a cloud adds to a bundle, and which answers it should give: `python -m bench hybrid`.

Answers of the bundle to the valid rows of five data sets are kept in a work folder, so that only new bundles
and new rows take time. Confidence is fitted to four fifths of the rows and judged on the rest, in turn
(`edge_s2s_export.factory.calibration`). Two clouds are looked at: the references, as if somebody wrote them,
which no cloud surpasses, and, if there is one, a larger bundle. A few requests then go through HybridModel to
a server on this machine that has those answers.
"""

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

import edge_s2s
from bench import ROOT
from bench.answers import Answer, answers, identity
from bench.deferral import (
    PERCENTS,
    SENT,
    Floats,
    curve,
    plot,
    random_line,
    share_of_oracle,
    with_interval,
)
from edge_s2s.hybrid import CloudClient, CloudConfig, HybridModel, Policy
from edge_s2s_export.factory.calibration import Confidence, auroc, calibrate
from edge_s2s_export.factory.datasets import Row, read_rows
from edge_s2s_export.factory.evaluation import score_rows
from edge_s2s_export.factory.measurement import rounded
from edge_s2s_export.factory.outputs import N_DRAWS

SETS = ("dialogsum", "qmsum_span", "convosumm_email", "mts_dialog", "scitldr")
METRIC = "rougeL"
REFERENCES, TEACHER = "references", "teacher"
# By cloud: what the tables between its marks in the documents are of.
REPORTS = {
    REFERENCES: ROOT / "reports" / "hybrid.json",
    TEACHER: ROOT / "reports" / "hybrid_teacher.json",
}
README = ROOT / "edge_s2s" / "hybrid" / "README.md"
BEGIN, END = "<!-- bench hybrid, cloud {}: begin -->", "<!-- bench hybrid, cloud {}: end -->"
METHODS = {
    "careful": f"ours, {N_DRAWS} draws",
    "learned": "ours, without draws",
    "mean log-probability": "mean log-probability",
    "length": "prefix and length only",  # there is one prefix
    "length and set": "length, told the data set",
    "random": "random",
    "oracle": "oracle",
}

Report = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    data = os.environ.get("EDGE_S2S_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=data and Path(data),
        help="folder of the data sets; EDGE_S2S_DATA by default",
    )
    parser.add_argument("--bundle", type=Path, help="what runs on the device; the default bundle")
    parser.add_argument("--teacher", type=Path, help="a larger bundle, as a realistic cloud")
    parser.add_argument("--rows", type=int, help="so many of the mixed rows; all by default")
    parser.add_argument("--requests", type=int, default=100, help="through HybridModel; 100 by default")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build-bench",
        help="folder in which answers are kept; build-bench by default",
    )
    parser.add_argument(
        "--out", type=Path, help="by default a file in reports, its plot, and the table in the documents"
    )


def run(args: argparse.Namespace, machine: Mapping[str, Any]) -> int:
    """Measures, and writes the report, its plot and, unless `--out` is given, the table in the documents."""
    if args.data is None:
        print("--data FOLDER, or EDGE_S2S_DATA, is needed: it has dialogsum/valid.jsonl.zst", file=sys.stderr)
        return 2
    bundle = args.bundle or edge_s2s.default_bundle_path(must_exist=True)
    rows = mixed_rows(args.data)[: args.rows]
    report: Report = {"machine": dict(machine), "rows": dict(Counter(row.set for row in rows))}
    with edge_s2s.load(bundle, num_threads=1) as model:
        report["bundle"] = f"{model.manifest.name} {model.manifest.version}, {identity(model.manifest)}"
    local = answers(bundle, rows, args.work, n_draws=N_DRAWS)
    qualities = {"device": _quality(rows, [answer.text for answer in local])}
    clouds = {REFERENCES: [row.targets[0] for row in rows]}
    qualities[REFERENCES] = np.full(len(rows), 100.0)
    if args.teacher is not None:
        taught = answers(args.teacher, rows, args.work)
        clouds[TEACHER] = [answer.text for answer in taught]
        qualities[TEACHER] = _quality(rows, clouds[TEACHER])
        report["teacher"] = {"bundle": args.teacher.name, "costs": _costs(taught)}
    report["device"] = {"costs": _costs(local), METRIC: _of_sets(rows, qualities["device"])}
    confidence = calibrate(
        [answer.features(row.source) for answer, row in zip(local, rows, strict=True)],
        qualities["device"],
        [row.set for row in rows],
        [""] * len(rows),  # all have the bundle's prefix
        metric=METRIC,
        n_draws=N_DRAWS,
    )
    if confidence is None:
        print("too few rows, or all of them equally good", file=sys.stderr)
        return 1
    report["confidence"] = _judged(confidence, rows, qualities["device"])
    report["clouds"] = {name: _deferral(confidence, qualities["device"], qualities[name]) for name in clouds}
    cloud = TEACHER if args.teacher is not None else REFERENCES
    n = min(args.requests, len(rows))
    report["requests"] = _requests(bundle, rows[:n], clouds[cloud][:n], cloud)
    out = args.out or REPORTS[cloud]
    picture = out.with_suffix(".svg")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rounded(report), indent=1) + "\n", encoding="utf-8")
    plot(str(picture), {name: found["curves"] for name, found in report["clouds"].items()})
    if args.out is None:
        README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(tables(json.loads(out.read_text(encoding="utf-8"))))
    return 0


def mixed_rows(data: Path) -> list[Row]:
    """All valid rows of the sets, shuffled, always in the same order."""
    rows = [row for name in SETS for row in read_rows(data, name, "valid")]
    random.Random(0).shuffle(rows)
    return rows


def _quality(rows: Sequence[Row], texts: Sequence[str]) -> Floats:
    """ROUGE-L of each text, mean over references."""
    return score_rows([row.targets for row in rows], texts).rouge[METRIC]


def _of_sets(rows: Sequence[Row], quality: Floats) -> dict[str, float]:
    means = {"mix": float(quality.mean())}
    for name in SETS:
        chosen = quality[[row.set == name for row in rows]]
        means[name] = float(chosen.mean()) if len(chosen) else float("nan")
    return means


def _costs(given: Sequence[Answer]) -> dict[str, float]:
    wall, cpu = ([getattr(answer, name) for answer in given] for name in ("wall_s", "cpu_s"))
    return _times(wall, cpu)


def _times(wall_s: Sequence[float], cpu_s: Sequence[float]) -> dict[str, float]:
    p50, p95 = np.percentile(wall_s, [50, 95])
    return {"wall_s_p50": float(p50), "wall_s_p95": float(p95), "cpu_s_mean": float(np.mean(cpu_s))}


def _judged(confidence: Confidence, rows: Sequence[Row], quality: Floats) -> Report:
    """AUROC of a good answer on the mix and in DialogSum, whose median then decides, and AURC."""
    inside = np.array([row.set == "dialogsum" for row in rows])
    places = {"mix": np.full(len(rows), True), "dialogsum": inside}
    judged: Report = {
        "good": confidence.calibrations[0].good,
        "ece": dict(confidence.ece),
        "methods": {},
    }
    for method, name in METHODS.items():
        order = confidence.orders[method]
        of_method: Report = {"aurc": confidence.methods[method].aurc}
        for place, chosen in places.items():
            good = (quality[chosen] >= np.median(quality[chosen])).astype(np.float64)
            of_method[place] = with_interval(auroc, order[chosen], good)
        judged["methods"][name] = of_method
    return judged


def _deferral(confidence: Confidence, local: Floats, cloud: Floats) -> Report:
    orders = {**confidence.orders, "oracle": local - cloud}
    curves = {name: curve(orders[method], local, cloud) for method, name in METHODS.items()}
    curves["random"] = random_line(local, cloud)
    shares = {
        METHODS[method]: with_interval(share_of_oracle, orders[method], local, cloud)
        for method in METHODS
        if method not in ("random", "oracle")
    }
    return {
        "quality": float(cloud.mean()),
        "delta": float((cloud - local).mean()),
        "curves": {name: values.tolist() for name, values in curves.items()},
        f"share_of_oracle_at_{SENT}": shares,
    }


# ------------------------------------------------- whole requests -------------------------------------------


def _requests(bundle: Path, rows: Sequence[Row], cloud: Sequence[str], name: str) -> Report:
    """What a user of HybridModel gets: the bundle's own calibration, or the rule for the start, decides."""
    wall, cpu, texts, reasons = [], [], [], Counter[str]()
    n_cloud = 0
    with (
        _server({row.source: text for row, text in zip(rows, cloud, strict=True)}) as url,
        tempfile.TemporaryDirectory() as state,
        edge_s2s.load(bundle, num_threads=1) as model,
    ):
        config = CloudConfig(
            base_url=url,
            model=name,
            state_dir=state,
            timeout_s=600,  # a busy machine may starve server and client for longer than a user would wait
            max_requests_per_minute=1000,
            max_requests_per_day=10 * len(rows),
            max_tokens_per_day=1 << 30,
        )
        hybrid = HybridModel(model, CloudClient(config), Policy(privacy="allow"))
        is_calibrated = "calibration" in model.manifest.extensions
        for row in rows:
            start, start_cpu = time.perf_counter(), time.process_time()
            best, *_ = hybrid.generate([row.source], truncation=True)[0]
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
            texts.append(best.text)
            n_cloud += best.origin == "cloud"
            reasons.update(best.reasons)
    return {
        "requests": len(rows),
        "decided_by": "calibration" if is_calibrated else "the rule for the start",
        "cloud": name,
        "answered_by_cloud": n_cloud / len(rows),
        "cloud_failed": sum(n for reason, n in reasons.items() if reason.startswith("cloud_")) / len(rows),
        "reasons": dict(sorted(reasons.items())),
        "costs": _times(wall, cpu),
        METRIC: float(_quality(rows, texts).mean()),
    }


@contextlib.contextmanager
def _server(known: Mapping[str, str]) -> Iterator[str]:
    """An OpenAI-compatible endpoint on this machine with an answer for each text; gives its base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = known[request["messages"][-1]["content"]]
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "delta": message, "finish_reason": "stop"}
            answer = json.dumps({"model": request["model"], "choices": [choice]})
            streams = request.get("stream", False)
            body = (f"data: {answer}\n\ndata: [DONE]\n\n" if streams else answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if streams else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


# ------------------------------------------------- for readers ----------------------------------------------


def tables(report: Report) -> str:
    """The report in Markdown."""
    judged, clouds = report["confidence"], report["clouds"]
    n_rows = sum(report["rows"].values())
    lines = [
        f"{report['bundle']} on {n_rows:,} validation rows ({', '.join(report['rows'])}), ROUGE-L"
        f" {report['device'][METRIC]['mix']:.1f}; {judged['good']}, the median, is a good answer.",
        "Every row is judged by a fit to the others; 95 % intervals are of resampled rows.",
        "",
        "| by | AUROC, mix | AUROC in DialogSum | AURC |"
        + "".join(f" part of the oracle's gain, {name} |" for name in clouds),
        "|---|---|---|---|" + "---|" * len(clouds),
    ]
    for method, found in judged["methods"].items():
        shares = [cloud[f"share_of_oracle_at_{SENT}"].get(method) for cloud in clouds.values()]
        cells = [_interval(found["mix"], 3), _interval(found["dialogsum"], 3), f"{found['aurc']:.3f}"]
        cells += [
            _interval(share, 2) if share else {"random": "0", "oracle": "1"}[method] for share in shares
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", f"ROUGE-L with a share of the answers from the cloud (the gain above: {SENT} %):", ""]
    shown = (0, 10, 20, 30, 50, 100)
    lines.append("| cloud | by | " + " | ".join(f"{percent} %" for percent in shown) + " |")
    lines.append("|---|---|" + "---|" * len(shown))
    for name, cloud in clouds.items():
        for method, values in cloud["curves"].items():
            picked = [values[PERCENTS.index(percent)] for percent in shown]
            lines.append(f"| {name} | {method} | " + " | ".join(f"{v:.1f}" for v in picked) + " |")
    return "\n".join([*lines, "", *_costs_table(report)])


def _costs_table(report: Report) -> list[str]:
    requests = report["requests"]
    systems = {"the device alone": report["device"]["costs"]}
    if TEACHER in report:
        systems["the teacher alone, here"] = report[TEACHER]["costs"]
    systems[f"{requests['requests']} requests through HybridModel"] = requests["costs"]
    lines = ["| one thread | median s | 95 % s | CPU s a request |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {costs['wall_s_p50']:.3f} | {costs['wall_s_p95']:.3f} | {costs['cpu_s_mean']:.3f} |"
        for name, costs in systems.items()
    ]
    machine = report["machine"]
    return [
        *lines,
        "",
        f"Of these requests the cloud answered {100 * requests['answered_by_cloud']:.0f} %, as"
        f" {requests['decided_by']} decides ({requests['cloud']}, by a server on the same machine);"
        f" {100 * requests['cloud_failed']:.0f} % asked in vain. {machine['cpu']}, {machine['cores']} cores,"
        f" load {machine['load_before']:.1f} before.",
    ]


def _interval(values: Sequence[float], digits: int) -> str:
    value, low, high = values
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def with_tables(document: str) -> str:
    """A document with the tables of each report between its marks."""
    for cloud, report in REPORTS.items():
        begin, end = BEGIN.format(cloud), END.format(cloud)
        head, rest = document.split(begin)
        _, tail = rest.split(end)
        document = f"{head}{begin}\n{tables(json.loads(report.read_text(encoding='utf-8')))}\n{end}{tail}"
    return document
