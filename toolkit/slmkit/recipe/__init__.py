"""Recipes: how each weight is quantized, and the bounds of parity."""
