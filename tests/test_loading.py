"""load: what it refuses, and how many threads a model gets."""

import os
from pathlib import Path

import pytest

import edge_s2s
from edge_s2s import BundleError
from edge_s2s.threads import default_num_threads


def test_without_the_default_bundle_load_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("edge_s2s.loading.__file__", str(tmp_path / "loading.py"))
    with pytest.raises(BundleError, match=r"no such file; .* edge-s2s-export convert makes"):
        edge_s2s.load()


def test_a_path_without_a_bundle_is_a_bundle_error(tmp_path: Path):
    with pytest.raises(BundleError, match="nowhere"):
        edge_s2s.load(tmp_path / "nowhere.es2s")


@pytest.mark.parametrize("num_threads", [0, 65])
def test_number_of_threads_has_limits(tiny_bundle: Path, num_threads: int):
    with pytest.raises(ValueError, match=r"num_threads: expected a number in 1\.\.64"):
        edge_s2s.load(tiny_bundle, num_threads=num_threads)


def test_threads_come_from_argument_then_environment_then_cores(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EDGE_S2S_NUM_THREADS", "3")
    with edge_s2s.load(tiny_bundle) as own:
        assert own.generate(["a"])[0][0].stats.num_threads == 3
    with edge_s2s.load(tiny_bundle, num_threads=1) as own:
        assert own.generate(["a"])[0][0].stats.num_threads == 1
    for wrong in ("", "0", "65", "two", "-1", "²"):
        monkeypatch.setenv("EDGE_S2S_NUM_THREADS", wrong)
        with pytest.raises(ValueError, match="EDGE_S2S_NUM_THREADS: expected a number"):
            edge_s2s.load(tiny_bundle)
    monkeypatch.delenv("EDGE_S2S_NUM_THREADS")
    assert 1 <= default_num_threads() <= min(4, os.cpu_count() or 1)
