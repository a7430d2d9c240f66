"""Load a bundle or a checkpoint, generate text, score answers."""
