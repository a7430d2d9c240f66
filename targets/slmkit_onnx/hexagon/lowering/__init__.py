"""Lowering of the vocabulary to static QDQ graphs for HTP."""
