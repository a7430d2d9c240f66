"""The ``hexagon`` artifact: Qualcomm's NPU through ONNX Runtime's QNN provider."""
