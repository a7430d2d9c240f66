"""Lowering of the vocabulary to MIL programs."""
