"""The whole model, text to tokens, on CPUs that qemu-user emulates: x86-64 without VNNI, and 64-bit ARM.

The first is where ONNX Runtime's int8 saturates unless told otherwise. The second runs an ARM Python with the
packages' ARM wheels, from a folder that arm64/make_root.sh makes.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import edge_s2s
from c_builds import EMULATED, ROOT, arm64_python

PROGRAM = ROOT / "tests" / "golden_answers.py"
REPORT = ROOT / "reports" / "arm64_pipeline.json"
N_SHORT, N_ALL = 4, 1000  # cases
QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")

pytestmark = pytest.mark.skipif(
    not edge_s2s.default_bundle_path().exists(), reason="installed without the default bundle"
)


@dataclass(frozen=True)
class Answers:
    """What golden_answers.py printed and wrote."""

    printed: dict[str, Any]
    cross_kv: list[np.ndarray]  # of each case, [n_layers, 2, n_heads, source_len, d_head]


def golden_answers(folder: Path, *python: str | Path, n: int = N_ALL) -> Answers:
    """Of the `n` shortest cases."""
    out = folder / "cross_kv.npz"
    run = subprocess.run([*python, PROGRAM, out, str(n)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    with np.load(out) as file:
        return Answers(json.loads(run.stdout.splitlines()[-1]), list(file.values()))


def cosines(found: Answers, expected: Answers) -> np.ndarray:
    """Of each token's keys and of its values, in each layer."""
    return np.concatenate([cosine(*pair) for pair in zip(found.cross_kv, expected.cross_kv, strict=False)])


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    products = [np.einsum("lkhtd,lkhtd->lkt", a, b, dtype=np.float64) for a, b in ((x, y), (x, x), (y, y))]
    cosines: np.ndarray = products[0] / np.sqrt(products[1] * products[2])
    return cosines.ravel()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    return golden_answers(tmp_path_factory.mktemp("host"), sys.executable)


# ------------------------------------------- x86-64 without VNNI -------------------------------------------


@pytest.fixture(scope="module")
def haswell(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    if QEMU is None:
        pytest.skip("qemu-user is not installed")
    if sysconfig.get_platform() != "linux-x86_64":
        pytest.skip("emulates an x86-64 CPU on x86-64 Linux")
    # The real interpreter, as qemu runs no scripts, under its own name (-0), by which it finds its packages.
    python = Path(sys.executable).resolve()
    command = [QEMU, "-cpu", "Haswell", "-0", sys.executable, python]
    return golden_answers(tmp_path_factory.mktemp("haswell"), *command, n=N_SHORT)


def test_golden_answers_hold_on_a_haswell_without_vnni(haswell: Answers):
    assert haswell.printed["isas"] == ["avx2"]
    assert haswell.printed["found"] == haswell.printed["expected"]


def test_the_encoder_of_a_haswell_is_that_of_this_machine(haswell: Answers, host: Answers):
    """Per token, layer and kind. Where products saturate it is 0.992."""
    assert cosines(haswell, host).min() >= 0.999


# ----------------------------------------------- 64-bit ARM ------------------------------------------------


@pytest.mark.release
@pytest.mark.parametrize("cpu", [cpu for cpu, emulated in EMULATED.items() if emulated.build == "aarch64"])
def test_golden_answers_hold_on_64_bit_arm(
    cpu: str, host: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("QEMU_CPU", cpu)
    answers = golden_answers(tmp_path, arm64_python())
    printed = answers.printed
    assert printed["machine"] == "aarch64"
    assert printed["onnxruntime"] == onnxruntime.__version__, "make the root again: tests/arm64/make_root.sh"
    assert printed["isas"] == [EMULATED[cpu].isa]
    assert printed["found"] == printed["expected"]
    likeness = cosines(answers, host)
    report = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    report[cpu] = {
        "isa": EMULATED[cpu].isa,
        "onnxruntime": printed["onnxruntime"],
        "cases": len(printed["found"]),
        "tokens": sum(map(len, printed["found"])),
        "different": 0,
        "encoder_cosine_mean": round(float(likeness.mean()), 6),
        "encoder_cosine_min": round(float(likeness.min()), 6),
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
