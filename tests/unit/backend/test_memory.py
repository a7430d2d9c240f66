"""What a runner may keep, within the memory that its process was given."""

from __future__ import annotations

import os

import pytest

from slmkit.backend.memory import WORKING, at_once, may_keep
from slmkit.system.process_memory import tree_memory
from slmkit.system.workers.memory import VARIABLE


def test_a_runner_keeps_what_it_likes_where_nobody_counts(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert may_keep(4 * 10**9) == 4 * 10**9


def test_a_runner_keeps_what_is_left_of_its_share(monkeypatch):
    held = tree_memory(os.getpid())
    if held is None:
        pytest.skip("this system does not tell what a process holds")
    monkeypatch.setenv(VARIABLE, str(held + WORKING + 10**9))
    assert 0.9 * 10**9 < may_keep(4 * 10**9) < 1.1 * 10**9
    assert may_keep(1000) == 1000
    monkeypatch.setenv(VARIABLE, str(held))
    assert may_keep(4 * 10**9) == 0


@pytest.mark.parametrize(
    ("share", "workers"), [(10**9, 1), (5 * 10**9, 2), (9 * 10**9, 3), ("", 3)]
)
def test_as_many_workers_run_as_the_share_holds(monkeypatch, share, workers):
    monkeypatch.setenv(VARIABLE, str(share))
    assert at_once(3, 2 * 10**9) == workers
