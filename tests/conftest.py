"""Tiny bundles that the exporter makes of a random T5, once for all tests.

EDGE_S2S_TINY names a folder that has them already: a Python without torch, which the exporter needs, tests
with what another one has made (test_arm64_suite.py).
"""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import edge_s2s
from edge_s2s import Seq2SeqModel

os.environ["PYTHONSAFEPATH"] = "1"  # for subprocesses: the source tree would hide the installed package
# A shell starts what runs in its background with SIGINT ignored, which Python keeps and children inherit:
# tests that send it would wait for ever there.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples in every run; HYPOTHESIS_PROFILE=default draws new ones.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)  # models so small that threads only wait for each other


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a random T5."""
    if ready := os.environ.get("EDGE_S2S_TINY"):
        return Path(ready) / "hf"
    from tiny_folders import make_tiny_folder

    return make_tiny_folder(tmp_path_factory.mktemp("tiny") / "hf")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_folder: Path) -> Path:
    """The int8 bundle of that T5, with a prefix."""
    return _bundle(tiny_folder, "tiny.es2s", "int8")


@pytest.fixture(scope="session")
def tiny_float_bundle(tiny_folder: Path) -> Path:
    """The float32 bundle of that T5, with a prefix."""
    return _bundle(tiny_folder, "tiny_float.es2s", "float32")


@pytest.fixture(scope="session")
def default_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with the weights of the default bundle."""
    if not (bundle := edge_s2s.default_bundle_path()).exists():
        pytest.skip("installed without the default bundle")
    from edge_s2s_export.restore import restore

    folder = tmp_path_factory.mktemp("default") / "hf"
    restore(bundle, folder)
    return folder


def _bundle(tiny_folder: Path, name: str, dtype: str) -> Path:
    path = tiny_folder.parent / name
    if not path.exists():
        from edge_s2s_export.convert import convert
        from tiny_folders import PREFIX

        convert(tiny_folder, path, dtype=dtype, name="tiny", prefix=PREFIX)
    return path


@pytest.fixture(scope="session")
def model(tiny_bundle: Path) -> Iterator[Seq2SeqModel]:
    """The int8 bundle, open."""
    with edge_s2s.load(tiny_bundle, num_threads=2) as opened:
        yield opened


@pytest.fixture(scope="session")
def float_model(tiny_float_bundle: Path) -> Iterator[Seq2SeqModel]:
    """The float32 bundle, open."""
    with edge_s2s.load(tiny_float_bundle, num_threads=2) as opened:
        yield opened
