"""Ranges of activations from calibration text."""
