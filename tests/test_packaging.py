"""What an installation holds: sizes, stable ABI, licences and commands."""

import re
import zlib
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

from edge_s2s import _core

try:
    METADATA = distribution("edge_s2s").metadata
except ModuleNotFoundError:
    pytest.skip("edge_s2s is imported from a folder and not installed", allow_module_level=True)


def test_the_compiled_module_is_small_and_has_the_stable_abi():
    module = Path(_core.__file__)
    assert module.name == "_core.abi3.so"
    assert module.stat().st_size <= 400_000


def test_a_wheel_without_the_default_bundle_is_below_500_kb():
    """A wheel is a zip: what counts is the compressed size."""
    files = distribution("edge_s2s").files
    assert files is not None
    sizes = {
        str(file): len(zlib.compress(Path(str(file.locate())).read_bytes()))
        for file in files
        if file.suffix != ".pyc"
        and file.name != "default.es2s"
        and ".." not in file.parts  # commands, which an installer makes
    }
    assert sum(sizes.values()) <= 500_000, sorted(sizes.items(), key=lambda item: -item[1])[:5]


def test_the_licence_names_code_and_weights():
    assert METADATA["License-Expression"] == "Apache-2.0 AND CC-BY-NC-SA-4.0"
    assert {Path(name).name for name in METADATA.get_all("License-File") or ()} == {
        "LICENSE",
        "LICENSE.default",
    }


def test_the_runtime_needs_four_packages():
    required = [line for line in METADATA.get_all("Requires-Dist") or () if "extra ==" not in line]
    names = {re.split(r"[<>=~! ;]", line)[0] for line in required}
    assert names == {"numpy", "onnxruntime", "tokenizers", "cffi"}
    assert all(">=" in line and "<" in line for line in required), "both bounds"


def test_both_commands_are_installed():
    commands = {entry.name for entry in entry_points(group="console_scripts")}
    assert {"edge-s2s", "edge-s2s-export"} <= commands
