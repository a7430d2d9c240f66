"""From the vocabulary to a TensorFlow Lite graph."""
