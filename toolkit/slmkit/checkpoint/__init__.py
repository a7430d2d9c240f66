"""Hugging Face checkpoint folders: config, tensors by memory map, tokenizer."""
