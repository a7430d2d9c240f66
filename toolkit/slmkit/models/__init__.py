"""Architectures: each written once, over the vocabulary of ``slmkit.ops``."""
