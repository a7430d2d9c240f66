"""Calibration: ranges of activations, recorded on text and chosen by a method."""
