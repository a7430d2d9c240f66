"""From the vocabulary to static QDQ graphs for HTP."""
