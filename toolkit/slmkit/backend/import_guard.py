"""Import guard: load a large library without others that it imports wherever they are installed.

TensorFlow imports keras, and with it scikit-learn, pandas and matplotlib where they are installed;
coremltools the frameworks whose models it converts. A process that writes or evaluates an artifact
uses nothing of them, and would pay for them with seconds and hundreds of megabytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Within the context, packages that are not imported yet appear as not installed."""
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update({name: cast(ModuleType, None) for name in hidden})
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
