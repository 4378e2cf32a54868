"""Whether the texts that come in are still like those that a model was made for; counters only, never text.

    model.drift.state   # "ok" | "warn" | "alarm", for a bundle with a reference

    monitor = Monitor(Reference.from_documents(map(model.encode, texts)))
    monitor.add(model.encode(text))

A histogram of tokens is compared with the bundle's reference (extension `drift`) by the population stability
index, the sum of (p - q) * ln(p / q). The limits are for windows of 20 documents: by sampling alone a window
of documents from home has 0.1.
"""

import dataclasses
import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self, TypeAlias

from edge_s2s.errors import BundleError
from edge_s2s.manifest import MANIFEST, Manifest
from edge_s2s.strict_json import build

State: TypeAlias = Literal["ok", "warn", "alarm"]

EXTENSION = "drift"
N_FREQUENT, N_HASHED = 192, 64
WINDOW = 20  # documents
WARN, ALARM = 0.20, 0.40
FAR_DOCUMENT = 0.95  # of a single one, which only far domains reach
_MAX_COUNT = 1 << 50
_SMOOTHING = 0.5


@dataclass(frozen=True)
class Reference:
    """How often tokens occur in the documents that a model was made for."""

    tokens: tuple[int, ...]
    """The most frequent ones, each with a bucket of its own; all others share the rest"""
    counts: tuple[int, ...]
    """Of `tokens`, and of the N_HASHED other buckets"""
    n_documents: int

    def __post_init__(self) -> None:
        """Raises BundleError for values that cannot be meant."""
        if not 1 <= len(self.tokens) <= N_FREQUENT or len({*self.tokens}) < len(self.tokens):
            raise _refused("tokens", f"1..{N_FREQUENT} different tokens", f"{len(self.tokens)}")
        if len(self.counts) != len(self.tokens) + N_HASHED:
            raise _refused("counts", f"{len(self.tokens) + N_HASHED} numbers", f"{len(self.counts)}")
        if wrong := [count for count in self.counts if not 0 <= count <= _MAX_COUNT]:
            raise _refused("counts", f"numbers in 0..{_MAX_COUNT}", f"{wrong[0]}")
        if not any(self.counts) or self.n_documents < 1:
            raise _refused("n_documents", "documents with tokens", f"{self.n_documents}")

    @classmethod
    def from_documents(cls, documents: Iterable[Iterable[int]]) -> Self:
        """The reference that documents make, as token ids of `Seq2SeqModel.encode`."""
        counts: Counter[int] = Counter()
        n_documents = 0
        for token_ids in documents:
            counts.update(token_ids)
            n_documents += 1
        frequent = sorted(counts, key=lambda token: (-counts[token], token))[:N_FREQUENT]
        empty = cls(tuple(frequent), (1,) * (len(frequent) + N_HASHED), max(n_documents, 1))
        return dataclasses.replace(empty, counts=tuple(empty.histogram(counts)))

    @classmethod
    def of(cls, manifest: Manifest) -> Self | None:
        """That of a bundle, if it has one; raises BundleError if that is wrong."""
        if (given := manifest.extensions.get(EXTENSION)) is None:
            return None
        reference = build(cls, given, MANIFEST, f"extensions.{EXTENSION}")
        assert isinstance(reference, cls)
        return reference

    def to_extension(self) -> dict[str, object]:
        """What a manifest holds under `extensions`."""
        values: dict[str, object] = json.loads(json.dumps(dataclasses.asdict(self)))
        return {EXTENSION: values}

    def histogram(self, counts: Counter[int]) -> list[int]:
        """Token counts in the buckets of this reference."""
        buckets = [0] * (len(self.tokens) + N_HASHED)
        for token, count in counts.items():
            place = self._places.get(token)
            buckets[len(self.tokens) + _hashed(token) if place is None else place] += count
        return buckets

    def psi(self, histogram: Sequence[int]) -> float:
        """Population stability index of a histogram; 0 for one without tokens."""
        if not any(histogram):
            return 0.0
        pairs = zip(_shares(histogram), self._expected, strict=True)
        return sum((p - q) * math.log(p / q) for p, q in pairs)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @cached_property
    def _expected(self) -> list[float]:
        return _shares(self.counts)


class Monitor:
    """Counts tokens of documents; threads may share it.

    Every WINDOW documents the state is that of the last window, and counting starts anew.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._lock = threading.Lock()
        self._histogram = [0] * len(reference.counts)
        self._n_documents = 0
        self._psi: float | None = None

    def add(self, token_ids: Iterable[int] | Counter[int]) -> float:
        """Counts a document: its tokens, or how often each occurs.

        Returns its own index, above FAR_DOCUMENT for one from far away.
        """
        own = self._reference.histogram(Counter(token_ids))
        with self._lock:
            self._histogram = [a + b for a, b in zip(self._histogram, own, strict=True)]
            self._n_documents += 1
            if self._n_documents == WINDOW:
                self._psi = self._reference.psi(self._histogram)
                self._histogram, self._n_documents = [0] * len(own), 0
        return self._reference.psi(own)

    @property
    def psi(self) -> float | None:
        """Index of the last full window; None before there is one."""
        return self._psi

    @property
    def state(self) -> State:
        """What the last full window says."""
        psi = self._psi or 0.0
        return "alarm" if psi > ALARM else "warn" if psi > WARN else "ok"


def _hashed(token: int) -> int:
    """A bucket in 0..N_HASHED-1, by Fibonacci hashing, the same everywhere."""
    return (token * 2654435769 & 0xFFFFFFFF) * N_HASHED >> 32


def _shares(histogram: Sequence[int]) -> list[float]:
    total = sum(histogram) + _SMOOTHING * len(histogram)
    return [(count + _SMOOTHING) / total for count in histogram]


def _refused(key: str, expected: str, found: str) -> BundleError:
    return BundleError(MANIFEST, f"extensions.{EXTENSION}.{key}: {expected}", found)
