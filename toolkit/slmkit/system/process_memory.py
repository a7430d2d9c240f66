"""Memory of this process: the most that it has held at once."""

from __future__ import annotations

import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
FIELD = "VmHWM:"  # of Linux: the peak of the resident set since the program began, in kB


def peak_memory() -> int | None:
    """Bytes, or None where the system does not tell.

    Of Linux's two answers the one that begins anew with each program: ru_maxrss is inherited from
    the process that started this one.
    """
    if STATUS.exists():
        for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(FIELD):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
