"""How each kind of unit is measured. A function for each, from unit and laboratory to what the file keeps."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from bench import ROOT, bounds, first_token, peers, startup
from bench.laboratory import Laboratory, Processes
from bench.noise import LIMIT, Meter
from bench.peers import BUNDLE, OURS
from bench.plan import BUSY_LABEL, Unit
from bench.processes import Entrant, Neighbour, PeerError, Process
from bench.rounds import Measured, Sample, measure, spread
from bench.shapes import default_tokenizer, encode, sources
from edge_s2s import default_bundle_path
from edge_s2s.decoder import supported_isas

ROUGES = ("rouge1", "rouge2", "rougeL")


def measure_unit(unit: Unit, laboratory: Laboratory) -> dict[str, Any]:
    """What the results file keeps of a unit."""
    laboratory.forget_failures(unit.name)
    return MEASURES[unit.kind](unit, laboratory)


def _startup(unit: Unit, laboratory: Laboratory) -> dict[str, Any]:
    document = ROOT / "examples" / "dialogue.txt"
    for needed in (default_bundle_path(), Path(sys.executable).parent / "edge-s2s"):
        if not needed.exists():
            raise PeerError(f"expected {needed}: install edge_s2s with its default bundle and its command")
    measured = measure(
        {OURS: partial(startup.sample, document, unit.threads)},
        rounds=laboratory.options.rounds,
        until=laboratory.unit_until,
    )
    return {"figures": measured.figures(OURS), **measured.noise()}


def _bounds(unit: Unit, laboratory: Laboratory) -> dict[str, Any]:
    if bounds.compiler() is None:
        raise PeerError("expected a C compiler to measure the machine's bounds, found none")
    options = laboratory.options
    with bounds.Bounds() as machine:

        def sample() -> Sample:
            streams = {
                f"stream_{size}mb_gb_per_s": machine.ask("stream", size << 20, unit.threads)
                for size in bounds.WORKING_SETS_MB
            }
            return {**streams, "int8_gmac_per_s": machine.ask("dot", 0, unit.threads)}

        measured = measure(
            {"machine": sample},
            rounds=options.rounds,
            until=laboratory.unit_until,
            pids=lambda: [machine.pid],
        )
    return {"figures": measured.figures("machine"), **measured.noise()}


def _generation(unit: Unit, laboratory: Laboratory) -> dict[str, Any]:
    """Greedy, with a read stream in the same rounds; beams; batches."""
    source = sources(unit.model, unit.source_len, unit.batch)
    entrants = laboratory.entrants(unit.model, unit.threads, num_beams=unit.num_beams)
    is_greedy = unit.kind == "greedy"
    with ExitStack() as stack:
        processes = stack.enter_context(Processes(laboratory, entrants, unit.name))
        tokens = _answers(processes, laboratory, unit, source)
        one_request = _split_request if is_greedy else _request
        samplers: dict[str, Callable[[], Sample]] = {
            process.entrant.label: partial(one_request, process, laboratory, source, unit.num_beams)
            for process in processes
        }
        own: list[int] = []
        bytes_per_token = 0
        if is_greedy and bounds.compiler() is not None:
            machine = stack.enter_context(bounds.Bounds())
            bytes_per_token = _bytes_per_token(entrants[0].folder, unit.source_len)
            samplers["stream"] = lambda: {"gb_per_s": machine.ask("stream", bytes_per_token, unit.threads)}
            own.append(machine.pid)
        measured = measure(
            samplers,
            rounds=laboratory.options.rounds,
            until=laboratory.unit_until,
            pids=lambda: [*processes.pids(), *own],
        )
    found = _peers(processes, measured, tokens)
    if bytes_per_token:
        found["bytes_per_token"] = bytes_per_token
        found["stream"] = measured.figures("stream")
    return {**found, "n_tokens": laboratory.options.n_tokens}


def _answers(
    processes: Processes, laboratory: Laboratory, unit: Unit, source: list[list[int]]
) -> dict[str, list[list[int]]]:
    """Everybody's tokens; whoever cannot do it is left out from here on."""
    tokens: dict[str, list[list[int]]] = {}
    for process in [*processes]:
        label = process.entrant.label
        try:
            answer = laboratory.generate(process, source, laboratory.options.n_tokens, unit.num_beams)
            tokens[label] = answer["result"]  # type: ignore[assignment]
        except PeerError as error:
            if process.entrant.peer == OURS:
                raise
            process.__exit__()
            processes.remove(process)
            laboratory.fail(f"{unit.name}/{label}", error)
    return tokens


def _request(process: Process, laboratory: Laboratory, source: list[list[int]], num_beams: int) -> Sample:
    return laboratory.whole_request(process, source, num_beams)


def _split_request(
    process: Process, laboratory: Laboratory, source: list[list[int]], num_beams: int
) -> Sample:
    """A request, and where its time goes: one of a single token is all that comes before decoding."""
    n_tokens = laboratory.options.n_tokens
    laboratory.generate(process, source, 1, num_beams)  # its own weights into the caches
    first = laboratory.generate(process, source, 1, num_beams)
    whole = laboratory.generate(process, source, n_tokens, num_beams)
    encoder_s = process.ask("encode", sources=source)["result"]
    return {
        "total_ms": 1000 * whole["wall_s"],
        "tokens_per_s": n_tokens / whole["wall_s"],
        "first_token_ms": 1000 * first["wall_s"],
        "ms_per_token": 1000 * (whole["wall_s"] - first["wall_s"]) / (n_tokens - 1),
        "cpu_ms_per_token": 1000 * (whole["cpu_s"] - first["cpu_s"]) / (n_tokens - 1),
        **({} if encoder_s is None else {"encoder_ms": 1000 * encoder_s}),
    }


def _bytes_per_token(folder: Path, source_len: int) -> int:
    from bench.peers.edge_s2s import bytes_per_token

    return bytes_per_token(folder, source_len)


def _peers(
    processes: list[Process], measured: Measured, tokens: Mapping[str, list[list[int]]]
) -> dict[str, Any]:
    entrants = [process.entrant for process in processes]
    return {
        "peers": {
            entrant.label: {
                "versions": peers.installed(entrant.peer),
                "setting": entrant.setting,
                "threads": entrant.threads,
                "rounds": len(measured.samples[entrant.label]),
                "figures": measured.figures(entrant.label),
                "other_tokens": _differing(tokens[OURS], tokens[entrant.label]),
            }
            for entrant in entrants
            if entrant.label in tokens
        },
        **measured.noise(),
    }


def _differing(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """Share of the tokens that differ from ours at the same place; after the first, most others do, too."""
    pairs = [pair for rows in zip(ours, theirs, strict=True) for pair in zip(*rows, strict=True)]
    return fmean(a != b for a, b in pairs)


def _busy(unit: Unit, laboratory: Laboratory) -> dict[str, Any]:
    """Everybody beside a busy process, and we alone with one thread while that one stands still."""
    source = sources(unit.model, unit.source_len, 1)
    entrants = laboratory.entrants(unit.model, unit.threads)
    quiet = Entrant(BUSY_LABEL, OURS, entrants[0].folder, 1, entrants[0].setting)
    with Processes(laboratory, [*entrants, quiet], unit.name) as processes, Neighbour() as neighbour:
        tokens = _answers(processes, laboratory, unit, source)

        def beside(process: Process) -> Sample:
            if process.entrant.label == BUSY_LABEL:
                return _split_request(process, laboratory, source, 1)
            with neighbour.running():
                return _split_request(process, laboratory, source, 1)

        measured = measure(
            {process.entrant.label: partial(beside, process) for process in processes},
            rounds=laboratory.options.rounds,
            until=laboratory.unit_until,
            pids=lambda: [*processes.pids(), neighbour.pid],
        )
    return {**_peers(processes, measured, tokens), "n_tokens": laboratory.options.n_tokens}


def _rows(unit: Unit, laboratory: Laboratory) -> dict[str, Any]:
    held = laboratory.options.isa
    isas = [held] if held else [isa for isa in supported_isas() if isa != "scalar"] or ["scalar"]
    with Processes(laboratory, [laboratory.ours(unit.model, unit.threads)], unit.name) as processes:
        [process] = processes

        def sample(isa: str) -> Sample:
            arguments = {"source_len": unit.source_len, "n_steps": laboratory.options.n_tokens, "isa": isa}
            steps = process.ask("steps", **arguments)["result"]
            one, four = (spread(steps[rows])["median"] for rows in ("1", "4"))
            return {"ms_1_row": one, "ms_4_rows": four, "times": four / one}

        measured = measure(
            {isa: partial(sample, isa) for isa in isas},
            rounds=laboratory.options.rounds,
            until=laboratory.unit_until,
            pids=processes.pids,
        )
    return {"isas": {isa: measured.figures(isa) for isa in isas}, **measured.noise()}


def _cold(unit: Unit, laboratory: Laboratory) -> dict[str, Any]:
    """New processes, files in the system's cache: from start to first token, and the memory that it took."""
    source = sources(unit.model, unit.source_len, 1)
    entrants = {entrant.label: entrant for entrant in laboratory.entrants(unit.model, unit.threads)}
    for entrant in entrants.values():
        read_anew(entrant.folder)

    def sample(entrant: Entrant) -> Sample:
        start = time.perf_counter()
        with entrant.start() as process:
            answer = laboratory.generate(process, source, 1, 1)
            first_token_s = time.perf_counter() - start
            hello = process.hello
        return {
            "first_token_s": first_token_s,
            "import_s": hello["import_s"],
            "load_s": hello["load_s"],
            "peak_mb": answer["peak_mb"],
            "peak_over_import_mb": answer["peak_mb"] - hello["import_mb"],
        }

    def failed(label: str, error: PeerError) -> None:
        if label == OURS:
            raise error
        laboratory.fail(f"{unit.name}/{label}", error)

    samplers: dict[str, Callable[[], Sample]] = {
        label: partial(sample, entrant) for label, entrant in entrants.items()
    }
    try:
        program = first_token.build(laboratory.options.work / "first_token")
        ours = entrants[OURS].folder
        with entrants[OURS].start() as process:
            [[expected]] = laboratory.generate(process, source, 1, 1)["result"]
        samplers[first_token.LABEL] = partial(
            first_token.sample,
            program,
            ours / BUNDLE,
            unit.threads,
            laboratory.options.isa,
            source[0],
            expected,
        )
        entrants[first_token.LABEL] = Entrant(first_token.LABEL, OURS, ours, unit.threads)
    except PeerError as error:
        laboratory.fail(f"{unit.name}/{first_token.LABEL}", error)
    measured = measure(
        samplers,
        rounds=laboratory.options.rounds,
        until=laboratory.unit_until,
        on_failure=failed,
    )
    found = {
        label: {
            "versions": peers.installed(entrant.peer),
            "setting": entrant.setting,
            "threads": entrant.threads,
            "rounds": len(measured.samples[label]),
            "disk_mb": disk_mb(entrant.folder),
            "figures": measured.figures(label),
        }
        for label, entrant in entrants.items()
        if label in measured.samples
    }
    return {"peers": found, **measured.noise()}


def read_anew(folder: Path) -> None:
    """Has the system forget the files of a peer and read them from the disk, front to back.

    How large the pieces are that its cache holds a file in decides how much of a mapped file counts as a
    process's memory: on Linux 6.18 one access maps 64 KB of a file that has just been copied, and 2 MB of one
    that was read like this, as after a start of the machine.
    """
    for file in model_files(folder):
        with file.open("rb") as opened:
            if hasattr(os, "posix_fadvise"):
                os.fsync(opened.fileno())  # what is not on the disk yet stays in the cache
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while opened.read(1 << 20):
                pass


def disk_mb(folder: Path) -> float:
    """Size of a peer's files, 1e6 bytes."""
    return sum(file.stat().st_size for file in model_files(folder)) / 1e6


def model_files(folder: Path) -> list[Path]:
    """All files below a peer's folder but what the bench itself keeps there; a link is what it points to."""
    files: list[Path] = []
    for entry in folder.iterdir():
        files += entry.resolve().rglob("*") if entry.is_dir() else [entry]
    return [file for file in files if file.is_file() and file.name != "tokens.json"]


def _quality(unit: Unit, laboratory: Laboratory) -> dict[str, Any]:
    """Each row goes to everybody before the next one; texts end where the model ends them."""
    from rouge_score.rouge_scorer import RougeScorer

    from edge_s2s_export.factory.datasets import read_rows

    options = laboratory.options
    assert options.data is not None
    tokenizer = default_tokenizer()
    scorer = RougeScorer(ROUGES, use_stemmer=True)
    rows = read_rows(options.data, "dialogsum", "valid")[: options.rows]
    entrants = laboratory.entrants(unit.model, unit.threads, num_beams=unit.num_beams)
    texts: dict[str, list[str]] = {entrant.label: [] for entrant in entrants}
    times: dict[str, list[float]] = {entrant.label: [] for entrant in entrants}
    scores: dict[str, list[list[float]]] = {entrant.label: [] for entrant in entrants}
    until = min(options.until, time.monotonic() + 3 * options.unit_s)
    with Processes(laboratory, entrants, unit.name) as processes:
        meter = Meter(processes.pids())
        for row in rows:
            source = encode(row.source)
            for process in processes:
                arguments = {"sources": [source], "n_tokens": None, "num_beams": unit.num_beams}
                answer = process.ask("generate", **arguments)
                label, text = process.entrant.label, tokenizer.decode(answer["result"][0]).strip()
                texts[label].append(text)
                times[label].append(1000 * answer["wall_s"])
                found = scorer.score(row.targets[0], text)
                scores[label].append([100 * found[name].fmeasure for name in ROUGES])
            print(f"  row {len(texts[OURS])} of {len(rows)}", end="\r", file=sys.stderr)
            if time.monotonic() >= until:
                break
        others = meter.others() or 0.0
    found = {}
    for entrant in (process.entrant for process in processes):
        mean = map(fmean, zip(*scores[entrant.label], strict=True))
        pairs = zip(texts[OURS], texts[entrant.label], strict=True)
        found[entrant.label] = {
            "versions": peers.installed(entrant.peer),
            "setting": entrant.setting,
            "threads": entrant.threads,
            "figures": {"total_ms": spread(times[entrant.label])},
            "rouge": dict(zip(ROUGES, mean, strict=True)),
            "other_texts": fmean(ours != theirs for ours, theirs in pairs),
        }
    noise = {"other_cores": round(others, 3), "quiet": others <= LIMIT}
    return {"rows": len(texts[OURS]), "peers": found, **noise}


MEASURES: Mapping[str, Callable[[Unit, Laboratory], dict[str, Any]]] = {
    "startup": _startup,
    "bounds": _bounds,
    "greedy": _generation,
    "beam": _generation,
    "batch": _generation,
    "busy": _busy,
    "rows": _rows,
    "cold": _cold,
    "quality": _quality,
}
