"""Artifacts where they will run: reports of devices, and their forms for others."""
