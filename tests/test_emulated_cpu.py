"""The whole model on an x86 CPU without VNNI, where ONNX Runtime's int8 saturates unless told otherwise."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import edge_s2s

QEMU = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
DEFAULT = edge_s2s.default_bundle_path()

SCRIPT = """
import json, sys
import edge_s2s
from edge_s2s.bundle import open_bundle

with open_bundle(sys.argv[1]) as bundle, edge_s2s.load(sys.argv[1], num_threads=1) as model:
    cases = sorted(bundle.golden(), key=lambda case: len(case.input_ids))[:3]
    found = [list(model.generate([c.text])[0][0].token_ids[: len(c.token_ids)]) for c in cases]
    stats = model.generate([cases[0].text])[0][0].stats
    print(json.dumps({"isa": stats.isa, "found": found, "expected": [list(c.token_ids) for c in cases]}))
"""


@pytest.mark.skipif(QEMU is None, reason="qemu-user is not installed")
@pytest.mark.skipif(
    sysconfig.get_platform() != "linux-x86_64", reason="emulates an x86-64 CPU on x86-64 Linux"
)
@pytest.mark.skipif(not DEFAULT.exists(), reason="installed without the default bundle")
def test_golden_answers_hold_on_a_haswell_without_vnni():
    assert QEMU is not None
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    extra = str(Path(edge_s2s.__file__).parent.parent)
    python = str(Path(sys.executable).resolve())
    command = [QEMU, "-cpu", "Haswell", "-E", f"PYTHONPATH={extra}{os.pathsep}{packages}", python]
    run = subprocess.run([*command, "-c", SCRIPT, str(DEFAULT)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer["isa"] == "avx2"
    assert answer["found"] == answer["expected"]
