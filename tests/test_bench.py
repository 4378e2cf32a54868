"""The benchmark runs and its tables hold what was measured; no figure is judged here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import edge_s2s

ROOT = Path(__file__).parent.parent


def bench(*arguments: str | Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "bench", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.skipif(
    not edge_s2s.default_bundle_path().exists(), reason="installed without the default bundle"
)
@pytest.mark.skipif(
    not (Path(sys.executable).parent / "edge-s2s").exists(), reason="the edge-s2s command is not installed"
)
def test_start_up_is_measured_reported_and_compared(tmp_path: Path):
    out = tmp_path / "result.json"
    report = bench("run", "--startup-only", "--rounds", "1", "--threads", "1", "--out", out)
    measured = json.loads(out.read_text(encoding="utf-8"))["startup"]["1"]
    assert measured.keys() == {
        "summarize_process_s",
        "summarize_peak_rss_mb",
        "import_s",
        "load_and_first_token_s",
    }
    for name, figure in measured.items():
        assert figure["median"] > 0
        assert f"| {name} | 1 | {figure['median']:.3f} |" in report
    assert bench("compare", out, out).count(" 1.000\n") == len(measured)
