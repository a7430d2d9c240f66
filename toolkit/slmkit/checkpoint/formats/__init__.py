"""Formats of weights beside plain safetensors: each reads its files as tensors by name."""
