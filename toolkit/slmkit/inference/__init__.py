"""Load a bundle or a checkpoint, generate text, evaluate answers."""
