"""From the vocabulary to a MIL program."""
