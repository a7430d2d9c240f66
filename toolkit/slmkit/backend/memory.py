"""How much a backend may keep in memory and start side by side: its process has a share."""

from __future__ import annotations

import os

from slmkit.system.process_memory import give_back, tree_memory
from slmkit.system.workers.memory import own_memory

__all__ = ["at_once", "give_back", "may_keep"]

WORKING = 400 * 10**6  # bytes that a runner needs beside what it keeps: activations, logits


def may_keep(most: int) -> int:
    """Bytes that a runner may keep beside what its process holds now: ``most``, or what is left of
    the process's share, down to nothing."""
    share = own_memory()
    held = tree_memory(os.getpid())
    if share is None or held is None:
        return most
    return max(0, min(most, share - held - WORKING))


def at_once(most: int, each: int) -> int:
    """How many workers of ``each`` bytes may run side by side: ``most``, within this process's
    share, and one in any case."""
    share = own_memory()
    return most if share is None else max(1, min(most, share // each))
