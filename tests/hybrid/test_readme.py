"""The examples of the folder's README run as printed, with or without a server at their address."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edge_s2s

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "edge_s2s" / "hybrid" / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(
    not edge_s2s.default_bundle_path().exists(), reason="installed without the default bundle"
)


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "XDG_STATE_HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_python_example_prints_who_answered(tmp_path: Path):
    printed = run([sys.executable, "-c", block("python")], tmp_path)
    assert re.match(r"(device|cloud) \(.*\) \S", printed), printed


def test_the_shell_example_prints_a_summary(tmp_path: Path):
    (tmp_path / "meeting.txt").write_text("#Person1#: Shall we meet at six?\n#Person2#: At seven, please.")
    printed = run(["sh", "-e", "-c", block("bash")], tmp_path)
    assert len(printed.splitlines()) >= 2
