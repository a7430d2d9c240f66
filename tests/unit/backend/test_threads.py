"""One core for a process whose share it is."""

from __future__ import annotations

import os

import pytest

from slmkit.system.jobs import cores
from slmkit.system.subprocess_worker import call
from slmkit.system.workers.threads import SHARE

HERE = "test_threads"
pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system binds no process to a core"
)


def two_of_them(payload, report):
    """The worker: its own cores, and those of another worker beside it."""
    from slmkit.backend.threads import keep_to_one_core

    before = os.sched_getaffinity(0)
    keep_to_one_core()
    own = os.sched_getaffinity(0)
    if not payload["others"]:
        return [sorted(own)]
    os.sched_setaffinity(0, before)  # which the other one begins with
    return [sorted(own), *call(f"{HERE}:two_of_them", {"others": 0}, report, "is tested")]


@pytest.mark.skipif(cores() < 2, reason="this machine has one core")
def test_processes_whose_share_is_one_core_take_different_ones(monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    token = SHARE.set(1)
    try:
        first, second = call(f"{HERE}:two_of_them", {"others": 1}, lambda *_: None, "is tested")
    finally:
        SHARE.reset(token)
    assert len(first) == len(second) == 1 and first != second


@pytest.mark.parametrize("share", [None, 2])
def test_a_process_that_has_more_keeps_them(monkeypatch, share):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    token = SHARE.set(share)
    try:
        (own,) = call(f"{HERE}:two_of_them", {"others": 0}, lambda *_: None, "is tested")
    finally:
        SHARE.reset(token)
    assert own == sorted(os.sched_getaffinity(0))
