"""Matrices stored as several tensors of integers and scales in safetensors files, by format."""
