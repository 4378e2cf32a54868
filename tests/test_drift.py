"""The drift monitor: quiet at home, loud elsewhere, and blind to what it should not keep."""

import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import edge_s2s
from bundle_extensions import with_extensions
from edge_s2s import BundleError
from edge_s2s.drift import ALARM, FAR_DOCUMENT, N_FREQUENT, N_HASHED, WARN, WINDOW, Monitor, Reference

DATA = Path(os.environ.get("EDGE_S2S_DATA", Path(__file__).parents[2] / "shared" / "data"))
REPORT = Path(__file__).parent.parent / "reports" / "drift.json"
DEFAULT = edge_s2s.default_bundle_path()
DOMAINS = (
    "mts_dialog", "qmsum_span", "convosumm_email", "scitldr", "e2e_nlg", "acl_abstract_title",
    "techdoc_abstract", "openstax_summary",
)  # fmt: skip


def documents(seed: int, n: int, *, shift: int = 0) -> list[list[int]]:
    """Token ids by a Zipf law over 1,000 tokens."""
    draw = np.random.default_rng(seed)
    return [((draw.zipf(1.3, 200) + shift) % 1000).tolist() for _ in range(n)]


def test_a_histogram_has_frequent_tokens_first_and_all_others_in_the_hash_buckets():
    reference = Reference.from_documents([[5, 5, 5, 9, 9, 7], [5, 7]])
    assert reference.tokens == (5, 7, 9)
    assert reference.counts == (4, 2, 2, *(0,) * N_HASHED)
    assert reference.n_documents == 2
    found = reference.histogram(Counter([5, 1000, 1000, 12]))
    assert (found[:3], sum(found[3:])) == ([1, 0, 0], 3)


def test_hash_buckets_are_filled_evenly():
    reference = Reference.from_documents([[0]])
    counts = reference.histogram(Counter(range(1, 32001)))[1:]
    assert min(counts) > 0.9 * 500
    assert max(counts) < 1.1 * 500


@given(st.lists(st.integers(0, 300), min_size=1, max_size=200), st.lists(st.integers(0, 300), max_size=200))
def test_the_index_is_the_formula(home: list[int], text: list[int]):
    reference = Reference.from_documents([home])
    found = np.array(reference.histogram(Counter(text)))
    p = (found + 0.5) / (found.sum() + 0.5 * len(found))
    expected = np.array(reference.counts)
    q = (expected + 0.5) / (expected.sum() + 0.5 * len(found))
    psi = reference.psi(found.tolist())
    assert psi == pytest.approx(((p - q) * np.log(p / q)).sum() if text else 0.0)
    assert psi >= 0


def test_a_window_ends_after_so_many_documents():
    monitor = Monitor(Reference.from_documents(documents(0, 500)))
    for i, document in enumerate(documents(1, 2 * WINDOW, shift=500), 1):
        assert (monitor.psi is None) == (i <= WINDOW)
        assert monitor.add(document) > FAR_DOCUMENT
    assert monitor.state == "alarm"
    for document in documents(2, WINDOW):
        assert monitor.state == "alarm"
        assert monitor.add(document) < FAR_DOCUMENT
    assert monitor.state == "ok"


@pytest.mark.parametrize(("psi", "state"), [(0.0, "ok"), (WARN, "ok"), (WARN + 0.01, "warn"),
                                            (ALARM, "warn"), (ALARM + 0.01, "alarm")])  # fmt: skip
def test_states_begin_above_their_limits(psi: float, state: str):
    monitor = Monitor(Reference.from_documents([[1]]))
    monitor._psi = psi
    assert monitor.state == state


def test_threads_lose_no_document():
    monitor = Monitor(Reference.from_documents(documents(0, 50)))
    n = 50 * WINDOW - 1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(monitor.add, itertools.islice(itertools.cycle(documents(1, 7)), n)))
    assert monitor._n_documents == WINDOW - 1


def test_only_counters_are_kept():
    monitor = Monitor(Reference.from_documents(documents(0, 50)))
    monitor.add(documents(1, 1)[0])
    kept = {name: value for name, value in vars(monitor).items() if name not in ("_reference", "_lock")}
    assert {name: type(value) for name, value in kept.items()} == {
        "_histogram": list, "_n_documents": int, "_psi": type(None)
    }  # fmt: skip
    assert len(monitor._histogram) <= N_FREQUENT + N_HASHED


def test_a_bundle_with_a_reference_counts_what_it_reads(tiny_bundle: Path, tmp_path: Path):
    with edge_s2s.load(tiny_bundle, num_threads=1) as opened:
        assert opened.drift is None
        texts = [f"Anna has {i} cats and Tom has none." for i in range(WINDOW)]
        reference = Reference.from_documents(map(opened.encode, texts))
    path = with_extensions(tiny_bundle, tmp_path / "drift.es2s", **reference.to_extension())
    with edge_s2s.load(path, num_threads=1) as opened:
        assert Reference.of(opened.manifest) == reference
        opened.generate(texts[: WINDOW - 2])
        list(opened.stream(texts[-2]))
        assert opened.drift.psi is None
        opened.summarize(texts[-1])
        assert opened.drift.psi == pytest.approx(0)
        long = "Ganz andere Woerter stehen hier. " * 1000
        for i in range(WINDOW):
            assert opened.drift.state == "ok", "a long document is one document"
            opened.summarize(long) if i < 2 else opened.generate(["xyz? !! zyx"])
        assert opened.drift.state == "alarm"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": []}, "tokens"),
        ({"tokens": [3, 3]}, "tokens"),
        ({"tokens": [*range(193)]}, "tokens"),
        ({"counts": [1]}, "counts"),
        ({"counts": [-1] * 66}, "counts"),
        ({"counts": [0] * 66}, "n_documents"),
        ({"counts": [1 << 60] * 66}, "counts"),
        ({"n_documents": 0}, "n_documents"),
        ({"n_documents": 1.5}, "n_documents"),
        ({"text": "secret"}, "text"),
    ],
)
def test_a_wrong_reference_is_refused(
    tiny_bundle: Path, tmp_path: Path, change: dict[str, object], message: str
):
    given = Reference.from_documents([[3, 4]]).to_extension()["drift"] | change  # type: ignore[operator]
    path = with_extensions(tiny_bundle, tmp_path / "wrong.es2s", drift=given)
    with pytest.raises(BundleError, match=message) as error:
        edge_s2s.load(path)
    assert "extensions.drift" in str(error.value)


def rows(name: str, split: str = "valid") -> Iterator[str]:
    path = DATA / name / f"{split}.jsonl.zst"
    if not path.exists():
        pytest.skip("data is not there (EDGE_S2S_DATA)")
    for line in zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines():
        yield json.loads(line)["source"]


@pytest.mark.release
@pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")
def test_windows_of_real_documents():
    """1,000 windows of each domain against 500 DialogSum train dialogues; writes reports/drift.json."""
    draw = random.Random(0)
    with edge_s2s.load(num_threads=1) as model:
        reference = Reference.from_documents(
            map(model.encode, itertools.islice(rows("dialogsum", "train"), 500))
        )
        report = {}
        for name in ("dialogsum", *DOMAINS):
            counts = [Counter(model.encode(text)) for text in rows(name)]
            alone = [reference.psi(reference.histogram(count)) for count in counts]
            windows = sorted(
                reference.psi(reference.histogram(sum(draw.sample(counts, WINDOW), Counter())))
                for _ in range(1000)
            )
            report[name] = {
                "documents": len(counts),
                "window_p1": round(windows[10], 2),
                "window_p50": round(windows[500], 2),
                "window_p99": round(windows[990], 2),
                "warn_percent": round(100 * sum(psi > WARN for psi in windows) / len(windows), 1),
                "alarm_percent": round(100 * sum(psi > ALARM for psi in windows) / len(windows), 1),
                "far_document_percent": round(100 * sum(psi > FAR_DOCUMENT for psi in alone) / len(alone), 1),
            }
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    assert report["dialogsum"]["alarm_percent"] <= 1
    assert all(report[name]["alarm_percent"] >= 95 for name in DOMAINS)


@pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")
def test_dialogues_raise_no_alarm_and_abstracts_do():
    """The short form: halves of DialogSum valid, and SciTLDR."""
    with edge_s2s.load(num_threads=1) as model:
        dialogues = [model.encode(text) for text in rows("dialogsum")]
        abstracts = [model.encode(text) for text in itertools.islice(rows("scitldr"), 100)]
    monitor = Monitor(Reference.from_documents(dialogues[:250]))
    for home, windows in ((True, dialogues[250:]), (False, abstracts)):
        for window in batches(windows):
            for document in window:
                monitor.add(document)
            assert monitor.state == ("ok" if home else "alarm")


def batches(items: list[list[int]]) -> Iterator[list[list[int]]]:
    for start in range(0, len(items) - WINDOW + 1, WINDOW):
        yield items[start : start + WINDOW]
