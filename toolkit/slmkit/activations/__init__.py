"""Activations of the float model on calibration text, and what follows from their sizes."""
