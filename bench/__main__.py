"""Command line of the benchmark.

python -m bench run --checkpoint FOLDER            everything, interleaved, into bench/results/
python -m bench run --startup-only                 only what needs no checkpoint and no peer
python -m bench run --providers B.es2s openvino    a bundle's static encoders on accelerators, beside the CPU
python -m bench report                             tables of the newest result of each machine
python -m bench compare OLD.json NEW.json          two results side by side
python -m bench hybrid --data FOLDER               which answers the cloud should give, and what that brings
python -m bench sustained --minutes 30             tokens a second and temperature over time
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import ROOT, hybrid, startup, sustained

PEERS = ("edge_s2s", "ctranslate2", "optimum", "transformers")
RESULTS = ROOT / "bench" / "results"
N_TOKENS = 64
COLUMNS = (
    "peer",
    "ms/token (p10-p90)",
    "CPU ms/token",
    "first token ms",
    "total ms",
    "total, times ours",
    "load ms",
    "RSS MB",
)


@dataclass
class Peer:
    """A running worker process."""

    name: str
    process: subprocess.Popen[str]
    hello: dict[str, Any]

    def ask(self, input_ids: list[int], n_tokens: int) -> dict[str, Any]:
        """One generation; raises if the worker died or produced another number of tokens."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"input_ids": input_ids, "n_tokens": n_tokens}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        if answer["tokens"] != n_tokens:
            raise RuntimeError(f"{self.name} generated {answer['tokens']} tokens, expected {n_tokens}")
        return answer

    def finish(self) -> float:
        """Peak RSS in MB; ends the process."""
        rest, _ = self.process.communicate()
        return float(json.loads(rest.splitlines()[-1])["peak_rss_mb"])


def start_peer(name: str, folder: Path, threads: int) -> Peer:
    """Start a worker and wait until its model is loaded."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.worker", name, str(folder), str(threads)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} did not start; its message is above")
    return Peer(name, process, json.loads(line))


def source_ids(checkpoint: Path, length: int) -> list[int]:
    """`length` token ids of the example dialogue, repeated if it is too short, ending in EOS."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    text = (ROOT / "examples" / "dialogue.txt").read_text(encoding="utf-8")
    encoding = tokenizer.encode("summarize dialogue: " + text)
    body: list[int] = encoding.ids[:-1]
    repeated = body * (length // len(body) + 1)
    return [*repeated[: length - 1], encoding.ids[-1]]


def measure_generation(
    checkpoint: Path, folders: dict[str, Path], *, source_len: int, threads: int, rounds: int
) -> dict[str, Any]:
    """All peers loaded at once, asked in turn: A B C A B C ... Times are medians over the rounds."""
    ids = source_ids(checkpoint, source_len)
    peers = [start_peer(name, folder, threads) for name, folder in folders.items()]
    samples: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in peers}
    for round_ in range(rounds + 1):
        for peer in peers:
            first = peer.ask(ids, 1)
            whole = peer.ask(ids, N_TOKENS)
            if round_ == 0:
                continue  # warm-up
            samples[peer.name].append(
                {
                    "total_ms": 1e3 * whole["wall_s"],
                    "first_token_ms": 1e3 * first["wall_s"],
                    "ms_per_token": 1e3 * (whole["wall_s"] - first["wall_s"]) / (N_TOKENS - 1),
                    "cpu_ms_per_token": 1e3 * (whole["cpu_s"] - first["cpu_s"]) / (N_TOKENS - 1),
                }
            )
    return {
        peer.name: {
            "version": peer.hello["version"],
            "load_ms": 1e3 * peer.hello["load_s"],
            "peak_rss_mb": peer.finish(),
            **{key: spread([s[key] for s in samples[peer.name]]) for key in samples[peer.name][0]},
        }
        for peer in peers
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p10": ordered[len(ordered) // 10],
        "p90": ordered[-1 - len(ordered) // 10],
    }


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d"),
        "load_before": os.getloadavg()[0],
    }


def command_run(args: argparse.Namespace) -> int:
    """Measure and write one JSON file."""
    result: dict[str, Any] = {"machine": machine(), "command": "python -m bench " + " ".join(sys.argv[1:])}
    document = ROOT / "examples" / "dialogue.txt"
    print("start-up ...", file=sys.stderr)
    result["startup"] = {
        str(threads): startup.measure(document, threads=threads, rounds=args.rounds)
        for threads in args.threads
    }
    if not args.startup_only:
        with tempfile.TemporaryDirectory() as work:
            folders = {name: Path(work) / name for name in args.peers}
            for name, folder in folders.items():
                folder.mkdir()
                print(f"preparing {name} ...", file=sys.stderr)
                command = [sys.executable, "-m", "bench.worker", "--prepare", name]
                command += [str(args.checkpoint.resolve()), str(folder)]
                subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
            result["generation"] = []
            for threads in args.threads:
                for source_len in args.source_lens:
                    print(f"source {source_len}, {threads} threads ...", file=sys.stderr)
                    figures = measure_generation(
                        args.checkpoint, folders, source_len=source_len, threads=threads, rounds=args.rounds
                    )
                    result["generation"].append(
                        {"source_len": source_len, "threads": threads, "peers": figures}
                    )
    out = (
        args.out
        or RESULTS
        / f"{result['machine']['cpu'].replace(' ', '-').lower()}-{result['machine']['commit']}.json"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}", file=sys.stderr)
    print(report(result))
    return 0


def report(result: dict[str, Any]) -> str:
    """Markdown tables of one result."""
    m = result["machine"]
    lines = [f"{m['cpu']}, {m['cores']} cores, {m['date']}, commit {m['commit']}: `{result['command']}`", ""]
    lines += ["| start-up, example dialogue | threads | median | min | max |", "|---|---|---|---|---|"]
    for threads, figures in result["startup"].items():
        for name, v in figures.items():
            lines.append(f"| {name} | {threads} | {v['median']:.3f} | {v['min']:.3f} | {v['max']:.3f} |")
    for run in result.get("generation", []):
        setting = f"Source {run['source_len']} tokens, {N_TOKENS} new tokens, greedy, batch 1"
        lines += ["", f"{setting}, {run['threads']} threads:", "", "| " + " | ".join(COLUMNS) + " |"]
        lines.append("|---" * len(COLUMNS) + "|")
        ours = run["peers"]["edge_s2s"]["total_ms"]["median"]
        lines += ["| " + " | ".join(cells(peer, ours)) + " |" for peer in run["peers"].values()]
    return "\n".join(lines)


def cells(peer: dict[str, Any], our_total_ms: float) -> list[str]:
    """One row of the generation table, in the order of COLUMNS."""
    token, total = peer["ms_per_token"], peer["total_ms"]["median"]
    return [
        peer["version"],
        f"{token['median']:.2f} ({token['p10']:.2f}-{token['p90']:.2f})",
        f"{peer['cpu_ms_per_token']['median']:.2f}",
        f"{peer['first_token_ms']['median']:.1f}",
        f"{total:.1f}",
        f"{total / our_total_ms:.2f}",
        f"{peer['load_ms']:.0f}",
        f"{peer['peak_rss_mb']:.0f}",
    ]


def command_report(args: argparse.Namespace) -> int:
    """Print the newest result of each machine."""
    newest: dict[str, dict[str, Any]] = {}
    for path in sorted(RESULTS.glob("*.json"), key=lambda p: p.stat().st_mtime):
        result = json.loads(path.read_text(encoding="utf-8"))
        newest[result["machine"]["cpu"]] = result
    if not newest:
        print(f"no results in {RESULTS}; run `python -m bench run` first", file=sys.stderr)
        return 1
    print("\n\n".join(report(result) for result in newest.values()))
    return 0


def command_compare(args: argparse.Namespace) -> int:
    """Print new / old for every figure that both files have."""
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (args.old, args.new))
    if old["machine"]["cpu"] != new["machine"]["cpu"]:
        print(f"different machines: {old['machine']['cpu']} and {new['machine']['cpu']}", file=sys.stderr)
        return 1
    print(f"{'figure':60} {'old':>9} {'new':>9} {'new/old':>8}")
    before, after = flatten(old), flatten(new)
    for name in sorted(before.keys() & after.keys()):
        print(f"{name:60} {before[name]:9.3f} {after[name]:9.3f} {after[name] / before[name]:8.3f}")
    return 0


def command_providers(args: argparse.Namespace) -> int:
    """The CPU and accelerators, side by side."""
    from bench import providers  # which needs this module

    bundle, *names = args.providers
    out = ["--out", str(args.out)] if args.out else []
    providers.main([bundle, *names, "--rows", str(args.rows), *out])
    return 0


def flatten(result: dict[str, Any]) -> dict[str, float]:
    """Medians by name."""
    figures = {
        f"startup {threads} threads {name}": v["median"]
        for threads, group in result["startup"].items()
        for name, v in group.items()
    }
    for run in result.get("generation", []):
        for name, peer in run["peers"].items():
            prefix = f"S{run['source_len']} {run['threads']} threads {name}"
            figures |= {f"{prefix} {k}": v["median"] for k, v in peer.items() if isinstance(v, dict)}
    return figures


def main() -> int:
    """Parse arguments and run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure and write bench/results/MACHINE-COMMIT.json")
    run.add_argument("--checkpoint", type=Path, help="Hugging Face folder that every peer converts")
    run.add_argument(
        "--startup-only", action="store_true", help="only whole-process times of the default bundle"
    )
    run.add_argument(
        "--peers", nargs="+", default=list(PEERS), choices=PEERS, metavar="PEER", help=f"of {PEERS}"
    )
    run.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    run.add_argument("--source-lens", nargs="+", type=int, default=[64, 512])
    run.add_argument("--rounds", type=int, default=15)
    run.add_argument("--out", type=Path)
    run.add_argument(
        "--providers",
        nargs="+",
        metavar=("BUNDLE", "PROVIDER"),
        help="only a bundle with static encoders: the CPU and these accelerators, such as openvino and qnn",
    )
    run.add_argument("--rows", type=int, default=100, help="dialogues for --providers (default: %(default)s)")
    run.set_defaults(command=command_run)
    commands.add_parser("report", help="print tables").set_defaults(command=command_report)
    compare = commands.add_parser("compare", help="two results side by side")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    compare.set_defaults(command=command_compare)
    with_cloud = commands.add_parser("hybrid", help="which answers the cloud should give")
    hybrid.add_arguments(with_cloud)
    with_cloud.set_defaults(command=lambda args: hybrid.run(args, machine()))
    lasting = commands.add_parser("sustained", help="whether the speed lasts; needs no peer")
    sustained.add_arguments(lasting)
    lasting.set_defaults(command=sustained.run)
    args = parser.parse_args()
    if args.command is command_run and args.providers:
        if len(args.providers) < 2:
            parser.error("--providers needs a bundle and at least one accelerator")
        return command_providers(args)
    if args.command is command_run and not args.startup_only:
        if args.checkpoint is None:
            parser.error("run needs --checkpoint FOLDER, or --startup-only")
        if "edge_s2s" not in args.peers:
            parser.error("--peers must contain edge_s2s: ratios are against it")
    status: int = args.command(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
