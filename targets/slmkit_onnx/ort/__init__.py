"""The ``ort`` artifact: ONNX Runtime on CPUs."""
