"""From a Relax program to a model library."""
