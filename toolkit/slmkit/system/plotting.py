"""matplotlib, imported so that it leaves nothing in a user's home."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from typing import Any

FOLDER = "MPLCONFIGDIR"  # where matplotlib keeps its settings and its list of fonts


@cache
def imported() -> Any:
    """The module ``matplotlib``. Its list of fonts is made anew in a folder that is gone again,
    unless the user has named one."""
    with tempfile.TemporaryDirectory() as scratch:
        named = os.environ.setdefault(FOLDER, scratch)
        try:
            import matplotlib
            import matplotlib.font_manager  # reads and writes the list
        finally:
            if named == scratch:
                del os.environ[FOLDER]
    return matplotlib
