"""Memory of this process: what it holds, and whether freed memory is kept or given back."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from slmkit.system.process_memory import kept_for_reuse, peak_memory, tree_memory

PIECES, MEGABYTES = 10, 200


def held():
    found = tree_memory(os.getpid())
    assert found is not None
    return found / 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept_for_the_next_array_and_given_back_in_the_end():
    before = held()
    with kept_for_reuse():
        size = MEGABYTES * 10**6 // PIECES
        arrays = [np.ones(size, np.uint8) for _ in range(PIECES)]
        assert held() > before + 0.9 * MEGABYTES
        del arrays
        assert held() > before + 0.9 * MEGABYTES
    assert held() < before + 0.2 * MEGABYTES


def test_the_peak_is_at_least_what_is_held():
    peak = peak_memory()
    assert peak is None or peak / 1e6 > 0.9 * held()
