"""ONNX artifacts: ``ort`` for ONNX Runtime on CPUs."""
