"""The bundle: its manifest, and the folder that is written whole or not at all."""
