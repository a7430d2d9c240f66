"""QNN's execution provider, its ahead-of-time compiler, and the table of chips."""
