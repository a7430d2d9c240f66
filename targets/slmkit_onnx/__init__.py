"""The ONNX backends: ``ort`` for ONNX Runtime on CPUs, ``hexagon`` for Qualcomm's NPU."""

import os

# ONNX Runtime 1.32 writes an id of this machine and a file of events below ~/.cache at each run,
# unless it is told so before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
