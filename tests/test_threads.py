"""Threads by default: as many as there are fast cores, whatever the system tells about them."""

import os
from pathlib import Path

import pytest

from edge_s2s.threads import count_performance_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no CPU affinity")
def test_only_performance_cores_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert count_performance_cores(tmp_path) == 8, "where nothing is known"
    for cpu in range(8):
        (tmp_path / f"cpu{cpu}").mkdir()
        (tmp_path / f"cpu{cpu}" / "cpu_capacity").write_text("1024\n" if cpu >= 6 else "446\n")
    assert count_performance_cores(tmp_path) == 2
