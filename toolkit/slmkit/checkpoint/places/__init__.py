"""Where a model is: a folder, a GGUF file, the hub; and what its headers tell."""
