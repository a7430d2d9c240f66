"""Interpreters of the vocabulary that slmkit itself needs: the recorder and the reference."""
