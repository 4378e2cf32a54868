"""What we hold ourselves to: ratios of medians within one unit or between two of one file.

"The best peer" is the fastest of all there, each in its own fastest setting; with two threads it may use one,
if that is faster. A target that was not measured is not met.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench import first_token
from bench.peers import OURS
from bench.plan import BUSY_LABEL, Unit
from bench.shapes import DEFAULT, MODELS

Units = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A median, and whose it is."""

    value: float
    label: str
    threads: int

    def __str__(self) -> str:
        threads = f" ({self.threads} thread{'s' * (self.threads > 1)})"
        return f"{self.value:.3g}, {self.label}{threads if self.threads else ''}"


@dataclass(frozen=True)
class Target:
    """One line of the table. `measured` is None where a part of it was not measured."""

    what: str
    limit: float
    at_least: bool
    ours: Figure | None
    theirs: Figure | None
    quiet: bool

    @property
    def measured(self) -> float | None:
        """Ours over theirs."""
        return self.ours.value / self.theirs.value if self.ours and self.theirs else None

    @property
    def verdict(self) -> str:
        """Met, missed, or not measured; what others disturbed is not decided."""
        if (ratio := self.measured) is None:
            return "not measured"
        met = ratio >= self.limit if self.at_least else ratio <= self.limit
        return ("met" if met else "**missed**") + ("" if self.quiet else ", disturbed")


def targets(units: Units) -> list[Target]:
    """All of them, in the order of the table."""
    return [
        *_tokens(units),
        *_requests(units),
        *_batches(units),
        *_bounds(units),
        *_rows(units),
        *_costs(units),
    ]


def _tokens(units: Units) -> Iterator[Target]:
    for model in MODELS:
        is_bart = model == "bart-base"
        one, two = (Unit("greedy", n, model) for n in (1, 2))
        ours = _figure(units, one, OURS, "ms_per_token")
        if not is_bart:
            yield _lower(units, f"{model}: ms/token, 1 thread, against CTranslate2", 0.42, ours,
                         _figure(units, one, "ctranslate2", "ms_per_token"), one)  # fmt: skip
        yield _lower(units, f"{model}: ms/token, 1 thread, against the hand-written ONNX Runtime loop",
                     0.62 if is_bart else 0.60, ours, _figure(units, one, "onnxruntime", "ms_per_token"),
                     one)  # fmt: skip
        yield _lower(units, f"{model}: ms/token, 2 threads, against the best peer",
                     0.55 if is_bart else 0.42, _figure(units, two, OURS, "ms_per_token"),
                     _best(units, two, "ms_per_token"), one, two)  # fmt: skip
    for model in MODELS:
        busy = Unit("busy", 2, model)
        yield _lower(units, f"{model}: ms/token, 2 threads, a core busy, against 1 thread, quiet", 1.15,
                     _figure(units, busy, OURS, "ms_per_token"),
                     _figure(units, busy, BUSY_LABEL, "ms_per_token"), busy)  # fmt: skip


def _requests(units: Units) -> Iterator[Target]:
    for model in MODELS:
        for source_len, limit in ((64, 0.65), (512, 0.80)):
            for threads in (1, 2):
                unit = Unit("greedy", threads, model, source_len)
                yield _lower(units, f"{model}: whole request, source {source_len}, {_threads(threads)}, "
                             "against the best peer", limit, _figure(units, unit, OURS, "total_ms"),
                             _best(units, unit, "total_ms"), *_up_to(unit))  # fmt: skip
    for model in MODELS:
        unit = Unit("beam", 1, model, num_beams=4)
        yield _lower(units, f"{model}: whole request, four beams, against CTranslate2", 0.40,
                     _figure(units, unit, OURS, "total_ms"), _figure(units, unit, "ctranslate2", "total_ms"),
                     unit)  # fmt: skip


def _batches(units: Units) -> Iterator[Target]:
    for model in MODELS:
        for batch, limit in ((8, 1.5), (32, 1.2)):
            for threads in (1, 2):
                unit = Unit("batch", threads, model, batch=batch)
                yield Target(
                    f"{model}: tokens/s, batch {batch}, {_threads(threads)}, against the best peer",
                    limit, True, _figure(units, unit, OURS, "tokens_per_s"),
                    _best(units, unit, "tokens_per_s", largest=True), _quiet(units, *_up_to(unit)),
                )  # fmt: skip


def _bounds(units: Units) -> Iterator[Target]:
    limits = {"t5-small": 0.90, "bart-base": 0.90, DEFAULT: 0.82}
    for model, limit in limits.items():
        one = Unit("greedy", 1, model)
        yield Target(f"{model}: GB/s, 1 thread, against the read stream", limit, True,
                     _bandwidth(units, one), _stream(units, one), _quiet(units, one))  # fmt: skip
    for model in MODELS:
        one, two = (Unit("greedy", n, model) for n in (1, 2))
        yield Target(f"{model}: gain of the second thread, against the read stream's", 0.9, True,
                     _gain(_bandwidth(units, two), _bandwidth(units, one)),
                     _gain(_stream(units, two), _stream(units, one)), _quiet(units, one, two))  # fmt: skip


def _rows(units: Units) -> Iterator[Target]:
    for model in MODELS:
        unit = Unit("rows", 1, model)
        for isa, limit in (("avx512_vnni", 1.15), ("avx2", 2.2)):
            found = units.get(unit.name, {}).get("isas", {}).get(isa)
            four, one = (
                Figure(found[name]["median"], words, 0) if found else None
                for name, words in (("ms_4_rows", "4 rows"), ("ms_1_row", "1 row"))
            )
            yield _lower(units, f"{model}: a step over 4 rows against 1, {isa}", limit, four, one, unit)


def _costs(units: Units) -> Iterator[Target]:
    for model in MODELS:
        cold = Unit("cold", 1, model)
        for name, words, limit in (
            ("first_token_s", "process start to first token", 0.5),
            ("peak_over_import_mb", "peak memory above interpreter and import", 0.8),
        ):
            for ours, program in ((OURS, ""), (first_token.LABEL, ", C program")):
                yield _lower(units, f"{model}: {words}{program}, against CTranslate2", limit,
                             _figure(units, cold, ours, name), _figure(units, cold, "ctranslate2", name),
                             cold)  # fmt: skip
    for model in MODELS:
        two = Unit("greedy", 2, model)
        best = _best(units, two, "ms_per_token")
        theirs = best and _figure(units, Unit("greedy", best.threads, model), best.label, "cpu_ms_per_token")
        yield _lower(units, f"{model}: CPU ms/token, 2 threads, against the best peer", 0.6,
                     _figure(units, two, OURS, "cpu_ms_per_token"), theirs, *_up_to(two))  # fmt: skip


def _lower(
    units: Units, what: str, limit: float, ours: Figure | None, theirs: Figure | None, *of: Unit
) -> Target:
    return Target(what, limit, False, ours, theirs, _quiet(units, *of))


def _figure(units: Units, unit: Unit, label: str, name: str) -> Figure | None:
    peer = units.get(unit.name, {}).get("peers", {}).get(label)
    if peer is None or name not in peer["figures"]:
        return None
    return Figure(peer["figures"][name]["median"], label, peer["threads"])


def _best(units: Units, unit: Unit, name: str, *, largest: bool = False) -> Figure | None:
    found = [
        figure
        for one in _up_to(unit)
        for label in units.get(one.name, {}).get("peers", {})
        if label not in (OURS, BUSY_LABEL) and (figure := _figure(units, one, label, name))
    ]
    choose = max if largest else min
    return choose(found, key=lambda figure: figure.value, default=None)


def _up_to(unit: Unit) -> list[Unit]:
    """The unit with as many threads and with fewer."""
    return [
        Unit(unit.kind, n, unit.model, unit.source_len, unit.batch, unit.num_beams)
        for n in range(1, unit.threads + 1)
    ]


def _bandwidth(units: Units, unit: Unit) -> Figure | None:
    token = _figure(units, unit, OURS, "ms_per_token")
    size = units.get(unit.name, {}).get("bytes_per_token")
    return Figure(size / token.value / 1e6, OURS, unit.threads) if token and size else None


def _stream(units: Units, unit: Unit) -> Figure | None:
    stream = units.get(unit.name, {}).get("stream")
    return Figure(stream["gb_per_s"]["median"], "stream", unit.threads) if stream else None


def _gain(two: Figure | None, one: Figure | None) -> Figure | None:
    return Figure(two.value / one.value, two.label, 0) if two and one else None


def _quiet(units: Units, *of: Unit) -> bool:
    return all(units.get(unit.name, {}).get("quiet", True) for unit in of)


def _threads(n: int) -> str:
    return f"{n} thread{'s' * (n > 1)}"
