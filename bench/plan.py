"""What is measured, as a list of units: each a minute or so, with a name, so that a run can be cut."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.shapes import DEFAULT

KINDS = {
    "startup": "whole processes of the default bundle",
    "bounds": "what the machine can do at most: read stream by working set, integer products",
    "greedy": "greedy search, batch 1, interleaved with a read stream over the same bytes",
    "beam": "beam search with four beams",
    "batch": "greedy search, several sources at once",
    "busy": "greedy search beside a process that keeps one core busy",
    "rows": "our decoder's step over four rows against one",
    "cold": "process start to first token, memory, disk",
    "quality": "the default model's summaries of DialogSum's valid rows: ROUGE next to time",
}
BUSY_LABEL = "edge_s2s, 1 thread, quiet"  # what the busy units compare with


@dataclass(frozen=True)
class Unit:
    """One measurement of all peers."""

    kind: str
    threads: int
    model: str = DEFAULT
    source_len: int = 64
    batch: int = 1
    num_beams: int = 1

    @property
    def name(self) -> str:
        """Such as "greedy/t5-small/s512/b1/k1/t2": source tokens, batch, beams, threads."""
        if self.kind in ("startup", "bounds"):
            return f"{self.kind}/t{self.threads}"
        if self.kind == "quality":
            return f"{self.kind}/{self.model}/k{self.num_beams}/t{self.threads}"
        sizes = f"s{self.source_len}/b{self.batch}/k{self.num_beams}"
        return f"{self.kind}/{self.model}/{sizes}/t{self.threads}"

    def selected(self, only: Iterable[str]) -> bool:
        """Whether all parts of one of these selections, such as "greedy/t1", are among its name's."""
        parts = {*self.name.split("/")}
        return any(parts.issuperset(wanted.split("/")) for wanted in only)


def plan(models: Sequence[str], threads: Sequence[int], *, quick: bool, data: bool) -> list[Unit]:
    """All units in the order in which they are measured: the quick ones and the most telling ones first."""
    lengths, batches = ((16,), (2,)) if quick else ((64, 512), (8, 32))
    units = [Unit("bounds", n) for n in threads]
    if DEFAULT in models:
        units += [Unit("startup", n) for n in threads]
    for model in models:
        units += [Unit("greedy", n, model, source_len) for source_len in lengths for n in threads]
        units.append(Unit("rows", 1, model, lengths[0]))
        if max(threads) > 1:
            units.append(Unit("busy", 2, model, lengths[0]))
        units.append(Unit("cold", 1, model, lengths[0]))
        units += [Unit("beam", n, model, lengths[0], num_beams=4) for n in threads]
        units += [Unit("batch", n, model, lengths[0], batch=b) for b in batches for n in threads]
    if data and DEFAULT in models:
        units += [Unit("quality", 1, num_beams=n) for n in (1, 4)]
    return units
