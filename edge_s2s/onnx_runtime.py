"""ONNX Runtime, with its telemetry off.

Its import costs every process 40 to 110 ms and 20 MB, and a model whose encoder is the C core's never asks it
for anything: so what imports this module is imported when a bundle needs it, not before.
"""

import os

# ONNX Runtime's own builds count events in ~/.cache and send them away; the variable is read at import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime as ort

ort.disable_telemetry_events()  # where somebody imported it before

__all__ = ["ort"]
