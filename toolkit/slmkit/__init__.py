"""slmkit takes a small language model from a Hugging Face checkpoint to phones, and proves it."""

__version__ = "0.1.0"
