"""``python -m slmkit``."""

from slmkit.cli import main

main()
