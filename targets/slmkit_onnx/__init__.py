"""The ONNX backends: ``ort`` for ONNX Runtime on CPUs, ``hexagon`` for Qualcomm's NPU."""
