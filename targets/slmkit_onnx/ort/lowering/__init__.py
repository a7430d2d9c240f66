"""Lowering of the vocabulary to an ONNX graph for ONNX Runtime."""
