"""Quantization: from float weights to codes, once per build."""
