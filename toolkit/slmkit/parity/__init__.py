"""Parity: golden prompts, metrics, and the comparison of artifacts with the reference."""
