"""Lowering of the vocabulary to a .tflite graph with the bundle's codes."""
