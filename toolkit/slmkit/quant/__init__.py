"""Quantization: float weights to codes, once per build."""
