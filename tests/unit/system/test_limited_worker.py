"""The worker with limits: whatever a call does is one error, and the next call finds a worker."""

from __future__ import annotations

import pytest

from slmkit.errors import RecipeError
from slmkit.system.limited_worker import LimitedWorker, LimitExceeded, Limits

SLOW = "a call that is ended only after a second"
SHORT = Limits(seconds=1, memory=10**8)


@pytest.fixture
def worker():
    found = LimitedWorker()
    yield found
    found.stop()


def test_one_process_answers_many_calls(worker):
    numbers = {worker.call("os:getpid", [], SHORT) for _ in range(3)}
    assert len(numbers) == 1
    worker.stop()
    assert worker.call("os:getpid", [], SHORT) not in numbers


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("builtins:int", ["x"], "invalid literal"),
        ("builtins:bytearray", [10**9], "needs more than 0.1 GB of memory"),
        ("os:abort", [], "needs more than"),  # as native code ends without memory
        ("os:_exit", [3], "it crashed .exit code 3."),
        ("sys:exit", [], "SystemExit"),
        ("signal:raise_signal", [11], "it crashed .SIGSEGV."),
        ("signal:raise_signal", [24], "it took more than 1 s"),  # as the system ends it: SIGXCPU
        ("builtins:set", [], "not JSON serializable"),
    ],
)
def test_whatever_a_call_does_is_one_error(worker, function, arguments, said):
    with pytest.raises(LimitExceeded, match=said):
        worker.call(function, arguments, SHORT)
    assert worker.call("builtins:len", [[1, 2]], SHORT) == 2


@pytest.mark.full(SLOW)
def test_a_call_that_computes_too_long_is_ended(worker):
    with pytest.raises(LimitExceeded, match="it took more than 1 s"):
        worker.call("re:search", ["(a|aa)+$", "a" * 60 + "!"], SHORT)


def test_a_call_that_waits_is_ended_by_the_clock(worker, monkeypatch):
    monkeypatch.setattr("slmkit.system.limited_worker.PATIENCE", 0.2)
    with pytest.raises(LimitExceeded, match="it took more than 1 s"):
        worker.call("time:sleep", [60], SHORT)


def test_an_error_with_a_hint_comes_through(worker):
    with pytest.raises(RecipeError, match="no recipe 'int3'") as caught:
        worker.call("slmkit.recipe.recipe:load_recipe", ["int3"], SHORT)
    assert caught.value.hint


def test_limits_are_of_each_call_and_do_not_add_up(worker):
    for _ in range(5):
        assert len(worker.call("builtins:sorted", [[1] * 200_000], SHORT)) == 200_000


def test_an_answer_longer_than_a_pipe_comes_whole(worker):
    assert worker.call("builtins:sorted", [list(range(300_000))], SHORT)[-1] == 299_999
