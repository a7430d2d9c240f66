"""Read a checkpoint: safetensors files, tokenizer, chat template, model card."""
