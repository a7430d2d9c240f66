"""GGUF, the files of llama.cpp: read as a checkpoint, and written."""
