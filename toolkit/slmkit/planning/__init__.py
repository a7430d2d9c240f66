"""Decisions before anything is written: artifacts, encodings, memory, calibration text."""
