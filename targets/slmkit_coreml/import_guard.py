"""Import guard: load coremltools without the frameworks whose models it can convert.

coremltools imports TensorFlow wherever that is installed (for ``litert``, here). That costs 3 s and
0.5 GB in each process that writes or evaluates a package, and this backend uses nothing of it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import cast

FRAMEWORKS = ("tensorflow", "torch")


@contextmanager
def import_guard() -> Iterator[None]:
    """Within the context, frameworks that are not imported yet appear as not installed."""
    hidden = [name for name in FRAMEWORKS if name not in sys.modules]
    sys.modules.update({name: cast(ModuleType, None) for name in hidden})
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
