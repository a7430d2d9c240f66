"""Evaluate saved packages anywhere, predict residency, and run Core ML itself on macOS."""
