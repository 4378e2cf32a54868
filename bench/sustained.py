"""Whether the speed lasts: summaries one after the other for minutes, beside the temperature. Needs no peer.

python -m bench sustained --minutes 30     or, where only the runtime is installed, python -m bench.sustained
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import edge_s2s
from bench import ROOT
from edge_s2s.hybrid.device import LinuxDevice

_BAR = 30  # characters of the longest bar


@dataclass(frozen=True)
class Interval:
    """What happened until `until_s` since the start."""

    until_s: float
    n_summaries: int
    n_tokens: int
    tokens_per_s: float
    temperature_c: float | None
    mhz: float | None
    """Of the fastest core at the end"""
    is_throttled: bool | None


def measure(
    model: edge_s2s.Seq2SeqModel, text: str, *, seconds: float, interval_s: float, device: LinuxDevice
) -> list[Interval]:
    """Summarizes one text until the time is over; an interval ends with a summary."""
    intervals: list[Interval] = []
    start = begun = time.monotonic()
    n_summaries = n_tokens = 0
    while begun - start < seconds:
        n_tokens += len(model.summarize(text).token_ids)
        n_summaries += 1
        now = time.monotonic()
        if now - begun >= interval_s or now - start >= seconds:
            state = device.read()
            intervals.append(
                Interval(
                    until_s=now - start,
                    n_summaries=n_summaries,
                    n_tokens=n_tokens,
                    tokens_per_s=n_tokens / (now - begun),
                    temperature_c=state.temperature_c,
                    mhz=_mhz(Path("/sys/devices/system/cpu")),
                    is_throttled=state.is_throttled,
                )
            )
            begun, n_summaries, n_tokens = now, 0, 0
    return intervals


def table(intervals: Sequence[Interval]) -> str:
    """The intervals in Markdown, with a bar for the tokens of each."""
    best = max(interval.tokens_per_s for interval in intervals)
    lines = ["| minute | tokens/s | °C | MHz | throttled | |", "|---|---|---|---|---|---|"]
    for i in intervals:
        bar = "█" * round(_BAR * i.tokens_per_s / best)
        throttled = {True: "yes", False: "no", None: ""}[i.is_throttled]
        cells = [f"{i.until_s / 60:.1f}", f"{i.tokens_per_s:.1f}", _cell(i.temperature_c, 1), _cell(i.mhz, 0)]
        lines.append(f"| {' | '.join(cells)} | {throttled} | {bar} |")
    first, last = intervals[0], intervals[-1]
    lines += ["", f"Tokens/s at the end: {last.tokens_per_s / first.tokens_per_s:.2f} of the beginning."]
    return "\n".join(lines)


def plot(intervals: Sequence[Interval], path: Path) -> None:
    """Tokens/s and temperature over time; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    speed = figure.add_subplot(xlabel="minutes", ylabel="tokens/s")
    minutes = [interval.until_s / 60 for interval in intervals]
    speed.plot(minutes, [interval.tokens_per_s for interval in intervals], color="C0")
    speed.set_ylim(bottom=0)
    heat = speed.twinx()
    heat.plot(
        minutes, [float("nan") if i.temperature_c is None else i.temperature_c for i in intervals], "C3"
    )
    heat.set_ylabel("°C", color="C3")
    figure.savefig(path)


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mhz(cpus: Path) -> float | None:
    found = []
    for file in cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"):
        try:
            found.append(int(file.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max(found, default=None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--interval", type=float, default=30, metavar="SECONDS", help="a row of the table")
    parser.add_argument("--bundle", type=Path, help="by default the shipped one")
    parser.add_argument("--num-threads", type=int)
    parser.add_argument("--pin-threads", action="store_true", help="keep threads to the fast cores")
    parser.add_argument("--out", type=Path, metavar="JSON", help="the intervals; .svg beside it has the plot")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, and writes file and plot if asked to."""
    text = (ROOT / "examples" / "dialogue.txt").read_text(encoding="utf-8")
    device = LinuxDevice()
    with edge_s2s.load(args.bundle, num_threads=args.num_threads, pin_threads=args.pin_threads) as model:
        intervals = measure(model, text, seconds=60 * args.minutes, interval_s=args.interval, device=device)
    print(table(intervals))
    if args.out is not None:
        args.out.write_text(json.dumps([asdict(i) for i in intervals], indent=1) + "\n", encoding="utf-8")
        plot(intervals, args.out.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.sustained")
    add_arguments(parser)
    raise SystemExit(run(parser.parse_args()))
