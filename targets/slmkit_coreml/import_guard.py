"""coremltools without the frameworks whose models it can convert.

It imports TensorFlow wherever that is installed (for ``litert``, here): 3 s and 0.5 GB in each
process that writes or evaluates a package, for nothing that this backend uses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

FRAMEWORKS = ("tensorflow", "torch")


@contextmanager
def alone() -> Iterator[None]:
    """Inside, a framework that no one has imported yet looks as if it were not installed."""
    hidden = [name for name in FRAMEWORKS if name not in sys.modules]
    sys.modules.update({name: cast(ModuleType, None) for name in hidden})
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
