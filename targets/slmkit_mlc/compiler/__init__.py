"""Compilation of a Relax program to a model library."""
