"""Measure a model against the float model on text: divergence, perplexity, changed answers."""
