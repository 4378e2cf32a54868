"""ruff and mypy strict are part of the test command."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "mypy of ordinary use": ["mypy", "--strict", "tests/typing_api.py"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_tree_is_clean_under(name: str):
    run = subprocess.run([sys.executable, "-m", *COMMANDS[name]], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
