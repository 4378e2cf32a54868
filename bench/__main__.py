"""Command line of the benchmark.

python -m bench run                                us beside all peers that are installed, into bench/results/
python -m bench run --minutes 9 --only t5-small    a part of it; the next run adds what is still missing
python -m bench run --startup-only                 only what needs no checkpoint and no peer
python -m bench run --isa avx2                     as on a CPU without AVX-512: us and who can be held to that
python -m bench run --providers B.es2s openvino    a bundle's static encoders on accelerators, beside the CPU
python -m bench report                             targets, tables and plots: bench/results/report.md, README
python -m bench compare OLD.json NEW.json          two results side by side
python -m bench hybrid --data FOLDER               which answers the cloud should give, and what that brings
python -m bench sustained --minutes 30             tokens a second and temperature over time
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import ROOT, results_file, sustained
from bench.peers import HELD, NAMES, OURS, installed
from bench.plan import KINDS, Unit, plan
from bench.results_file import ResultsError
from bench.shapes import MODELS, TINY

WORK = ROOT / "build" / "bench"
_LEAST_S = 30.0  # that a unit may begin before the end of a run


def command_run(args: argparse.Namespace) -> int:
    """Measures what the file lacks, unit after unit, and prints the tables of what it did."""
    from bench.laboratory import Laboratory, Options
    from bench.processes import PeerError
    from bench.report import unit_tables
    from bench.units import measure_unit

    out = args.out or _default_out(args)
    results = results_file.open_results(out, quick=args.quick, isa=args.isa)
    models = args.models or (tuple(TINY) if args.quick else MODELS)
    units = plan(models, args.threads, quick=args.quick, data=args.data is not None)
    only = ["startup"] if args.startup_only else args.only
    if only is not None and not any(unit.selected(only) for unit in units):
        raise ResultsError(f"--only {','.join(only)}: expected parts of names such as {units[-1].name}")
    wanted = [unit for unit in units if only is None or unit.selected(only)]
    todo = [unit for unit in wanted if args.again or not _is_done(results, unit)]
    until = time.monotonic() + (60 * args.minutes if args.minutes else 1e9)
    able = [name for name in args.peers if args.isa is None or name in HELD[args.isa]]
    if free := [name for name in args.peers if name not in able]:
        print(f"cannot be held to {args.isa}: {', '.join(free)}", file=sys.stderr)
    names = [name for name in NAMES if name in able and installed(name)]
    if missing := [name for name in able if name not in names]:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
    options = Options(
        work=args.work.resolve(),
        names=names,
        rounds=args.rounds,
        n_tokens=8 if args.quick else 64,
        unit_s=args.unit_seconds,
        until=until,
        data=args.data and args.data.resolve(),
        rows=args.rows,
        isa=args.isa,
    )
    laboratory = Laboratory(options, results)
    results_file.begin_run(results)
    measured: list[Unit] = []
    for i, unit in enumerate(todo):
        if time.monotonic() > until - _LEAST_S:
            break
        print(f"{i + 1} of {len(todo)}: {unit.name} ...", file=sys.stderr)
        try:
            found = measure_unit(unit, laboratory)
        except PeerError as error:
            laboratory.fail(unit.name, error)
            continue
        results["units"][unit.name] = results_file.rounded({**found, "commit": results_file.commit()})
        results_file.save(out, results)
        measured.append(unit)
    results_file.save(out, results)
    print("\n".join(unit_tables({unit.name: results["units"][unit.name] for unit in measured})))
    left = [unit.name for unit in wanted if not _is_done(results, unit)]
    print(f"wrote {out}", file=sys.stderr)
    if left:
        print(f"not measured, or disturbed: {', '.join(left)}; run it again", file=sys.stderr)
    return 1 if any(unit.name in results["failed"] for unit in wanted) else 0


def _default_out(args: argparse.Namespace) -> Path:
    """Tiny models have no place among the results."""
    folder: Path = args.work / "quick" if args.quick else results_file.FOLDER
    return folder / results_file.file_name(args.isa)


def _is_done(results: results_file.Results, unit: Unit) -> bool:
    return bool(results["units"].get(unit.name, {"quiet": False}).get("quiet", True))


def command_report(args: argparse.Namespace) -> int:
    """Writes the page, and from this repository's own results the README's tables."""
    from bench.readme import README, with_speed
    from bench.report import write_report

    for line in write_report(args.results, args.out or args.results / "report.md"):
        print(line, file=sys.stderr)
    print(f"wrote {args.out or args.results / 'report.md'}")
    if args.results == results_file.FOLDER and args.out is None:
        document = README.read_text(encoding="utf-8")
        README.write_text(with_speed(document, args.results), encoding="utf-8")
        print(f"wrote {README}")
    return 0


def command_compare(args: argparse.Namespace) -> int:
    """Prints new / old for every figure that both files have."""
    from bench.report import flatten

    old, new = (results_file.read(path) for path in (args.old, args.new))
    if old["machine"]["cpu"] != new["machine"]["cpu"]:
        print(f"different machines: {old['machine']['cpu']} and {new['machine']['cpu']}", file=sys.stderr)
        return 1
    before, after = flatten(old), flatten(new)
    print(f"{'figure':72} {'old':>9} {'new':>9} {'new/old':>8}")
    for name in sorted(before.keys() & after.keys()):
        if before[name]:
            print(f"{name:72} {before[name]:9.3f} {after[name]:9.3f} {after[name] / before[name]:8.3f}")
    return 0


def command_providers(args: argparse.Namespace) -> int:
    """The CPU and accelerators, side by side."""
    from bench import providers

    bundle, *names = args.providers
    out = ["--out", str(args.out)] if args.out else []
    providers.main([bundle, *names, "--rows", str(args.rows), *out])
    return 0


def command_hybrid(arguments: Sequence[str]) -> int:
    """Which answers the cloud should give; imported late, because it needs the extra export."""
    from bench import hybrid

    parser = argparse.ArgumentParser(prog="python -m bench hybrid", description=hybrid.__doc__)
    hybrid.add_arguments(parser)
    return hybrid.run(parser.parse_args(arguments), results_file.machine())


def _add_run(run: argparse.ArgumentParser) -> None:
    kinds = "".join(f"\n  {name:8}  {what}" for name, what in KINDS.items())
    run.description = f"""Kinds of units, for --only:{kinds}

A unit's name is KIND/MODEL/sSOURCE/bBATCH/kBEAMS/tTHREADS, such as greedy/t5-small/s64/b1/k1/t2."""
    cores = os.cpu_count() or 1
    run.add_argument(
        "--only",
        type=lambda text: text.split(","),
        metavar="WORK,...",
        help="units with these parts in their names, such as greedy/t1,cold",
    )
    run.add_argument("--minutes", type=float, help="begin no unit after this; the next run goes on")
    run.add_argument("--again", action="store_true", help="measure also what the file has already")
    run.add_argument("--quick", action="store_true", help="tiny models, seconds: shows that all works")
    run.add_argument(
        "--startup-only", action="store_true", help="only whole-process times of the default bundle"
    )
    run.add_argument("--models", nargs="+", choices=(*MODELS, *TINY), metavar="MODEL", help=f"of {MODELS}")
    run.add_argument(
        "--peers", nargs="+", default=[*NAMES], choices=NAMES, metavar="PEER", help=f"of {NAMES}"
    )
    run.add_argument("--isa", choices=HELD, help="hold all to this kernel set, and leave out who cannot be")
    run.add_argument("--threads", nargs="+", type=int, default=[1, 2][: max(1, cores)])
    run.add_argument("--rounds", type=int, default=11, help="of each unit (default: %(default)s)")
    run.add_argument(
        "--unit-seconds", type=float, default=60, help="a unit begins no round after this (%(default)s)"
    )
    run.add_argument("--data", type=Path, help="data folder, with dialogsum/valid.jsonl, for quality")
    run.add_argument(
        "--rows", type=int, default=100, help="dialogues for quality and --providers (default: %(default)s)"
    )
    run.add_argument("--work", type=Path, default=WORK, help="keeps converted models (default: build/bench)")
    run.add_argument(
        "--out",
        type=Path,
        help="by default bench/results/CPU-COMMIT.json, of a quick run in WORK/quick; runs add to it",
    )
    run.add_argument(
        "--providers",
        nargs="+",
        metavar=("BUNDLE", "PROVIDER"),
        help="only a bundle with static encoders: the CPU and these accelerators, such as openvino and qnn",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses arguments and runs one command."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="measure us and the peers", formatter_class=raw)
    _add_run(run)
    run.set_defaults(command=command_run)
    report = commands.add_parser("report", help="targets, tables and plots as one page")
    report.add_argument("--results", type=Path, default=results_file.FOLDER)
    report.add_argument("--out", type=Path, help="by default report.md beside the results")
    report.set_defaults(command=command_report)
    compare = commands.add_parser("compare", help="two results side by side")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    compare.set_defaults(command=command_compare)
    with_cloud = commands.add_parser("hybrid", help="which answers the cloud should give", add_help=False)
    with_cloud.set_defaults(command=None)
    lasting = commands.add_parser("sustained", help="whether the speed lasts; needs no peer")
    sustained.add_arguments(lasting)
    lasting.set_defaults(command=sustained.run)
    args, rest = parser.parse_known_args(arguments)
    if args.command is None:
        return command_hybrid(rest)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if args.command is command_run:
        if args.providers:
            if len(args.providers) < 2:
                parser.error("--providers needs a bundle and at least one accelerator")
            return command_providers(args)
        if OURS not in args.peers:
            parser.error("--peers must contain edge_s2s: ratios are against it")
    try:
        status: int = args.command(args)
    except ResultsError as error:
        print(error, file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
