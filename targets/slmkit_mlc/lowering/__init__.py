"""From the vocabulary to a Relax program with MLC's functions."""
