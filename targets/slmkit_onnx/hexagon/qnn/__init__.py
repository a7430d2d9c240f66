"""QNN's provider, its compiler, and the chips."""
