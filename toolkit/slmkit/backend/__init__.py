"""The interface between slmkit and its backends, and what backends share."""
