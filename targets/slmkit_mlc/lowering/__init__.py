"""Lowering of the vocabulary to a Relax program with the functions of MLC's engine."""
