"""The public names of the package."""

import subprocess
import sys
import tomllib
from pathlib import Path

import edge_s2s

ROOT = Path(__file__).parent.parent


def test_all_is_sorted_and_is_what_the_package_exports():
    assert edge_s2s.__all__ == sorted(edge_s2s.__all__)
    modules = {path.stem for path in (ROOT / "edge_s2s").glob("*.py")} | {"hybrid"}
    exported = {name for name in vars(edge_s2s) if not name.startswith("_")} - modules - {"RUNTIME_VERSION"}
    assert exported | {"__version__"} == set(edge_s2s.__all__)


def test_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert edge_s2s.__version__ == project["version"]


def test_import_prints_nothing_and_starts_no_thread():
    code = "import edge_s2s, threading; assert threading.active_count() == 1"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
