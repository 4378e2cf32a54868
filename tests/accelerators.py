"""Which accelerators can be tried on this machine."""

from pathlib import Path

import pytest


def skip_without_hardware(name: str) -> None:
    """OpenVINO's plugin looks at the maker of the CPU before it offers it; QNN's brings an emulator."""
    cpu_info = Path("/proc/cpuinfo")
    if name == "openvino" and not (cpu_info.exists() and "GenuineIntel" in cpu_info.read_text("utf-8")):
        pytest.skip("onnxruntime-ep-openvino offers CPUs of Intel alone")
