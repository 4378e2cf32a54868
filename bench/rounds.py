"""Rounds A B C A B C ...: everybody meets the same weather, and a round that others disturbed is repeated."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench import noise
from bench.processes import PeerError

SLOW_S = 3.0  # whose sample takes longer takes part in the first rounds only
SLOW_ROUNDS = 3
_TRIES = 3  # of each round, on average

Sample = Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """Samples of everybody, and how quiet it was."""

    samples: Mapping[str, Sequence[Sample]]
    others: Sequence[float]
    """Cores that others used in each round that counts"""
    rejected: int
    """Rounds that were repeated"""

    def noise(self) -> dict[str, object]:
        """For the results file."""
        worst = max(self.others, default=0.0)
        return {
            "rounds": len(self.others),
            "rejected": self.rejected,
            "other_cores": round(worst, 3),
            "quiet": worst <= noise.LIMIT,
        }

    def figures(self, label: str) -> dict[str, dict[str, float]]:
        """Name -> median, 10th and 90th percentile, of one entrant."""
        samples = self.samples[label]
        return {name: spread([sample[name] for sample in samples]) for name in samples[0]}


def measure(
    samplers: Mapping[str, Callable[[], Sample]],
    *,
    rounds: int,
    until: float,
    pids: Callable[[], Iterable[int]] = tuple,
    on_failure: Callable[[str, PeerError], None] | None = None,
    start_meter: Callable[[Iterable[int]], noise.Meter] = noise.Meter,
) -> Measured:
    """`rounds` quiet rounds in which each sampler is called once, after one that does not count.

    Who fails in that one is told to `on_failure` and left out; a failure later on ends it all.

    Ends early at the time `until` of time.monotonic, but not without a round. If not enough rounds were
    quiet, the quietest of the others count, too: `Measured.others` tells. `pids` are our living processes.
    """
    times = {}
    for label, sample in samplers.items():
        start = time.perf_counter()
        try:
            sample()
        except PeerError as error:
            if on_failure is None:
                raise
            on_failure(label, error)
            continue
        times[label] = time.perf_counter() - start
    samplers = {label: sample for label, sample in samplers.items() if label in times}
    slow = {label for label in times if times[label] > SLOW_S}
    quiet: list[tuple[float, dict[str, Sample]]] = []
    disturbed: list[tuple[float, dict[str, Sample]]] = []
    for _ in range(_TRIES * rounds):
        meter = start_meter(pids())
        left_out = slow if len(quiet) >= SLOW_ROUNDS else set()
        found = {label: sample() for label, sample in samplers.items() if label not in left_out}
        others = meter.others() or 0.0
        (quiet if others <= noise.LIMIT else disturbed).append((others, found))
        if len(quiet) == rounds or time.monotonic() >= until:
            break
    spare = sorted(disturbed, key=lambda one: one[0])[: rounds - len(quiet)]
    counted = quiet + spare
    samples = {label: [found[label] for _, found in counted if label in found] for label in samplers}
    return Measured(samples, [others for others, _ in counted], len(disturbed) - len(spare))


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    p10, median, p90 = np.percentile([*values], (10, 50, 90))
    return {"median": float(median), "p10": float(p10), "p90": float(p90)}
