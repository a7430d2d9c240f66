"""Evaluate a saved package, predict residency, and Core ML itself on macOS."""
