"""LoRA adapters as PEFT writes them: read, checked, merged into the weights that they are for."""
