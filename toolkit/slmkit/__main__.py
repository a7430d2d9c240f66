"""``python -m slmkit``."""

from slmkit.cli.main import main

main()
