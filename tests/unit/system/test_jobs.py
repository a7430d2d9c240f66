"""Jobs side by side: in order, within the limits, ended together."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import pytest

from slmkit.errors import BackendError, SlmkitError
from slmkit.system import jobs as system_jobs
from slmkit.system import subprocess_worker
from slmkit.system.jobs import Job, Limits, run_jobs
from slmkit.system.ledger import Ledger
from slmkit.system.progress import Silent
from slmkit.system.workers.threads import SHARE, thread_settings

GB = 10**9


@pytest.fixture(autouse=True)
def no_memory_of_its_own(monkeypatch):
    """The process of the tests holds nothing, as far as jobs are concerned."""
    monkeypatch.setattr(system_jobs, "tree_memory", lambda root: 0)


class Gauge:
    """Counts the jobs that run at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.lock = threading.Lock()

    def job(self, result, memory=0):
        def work(progress):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.05)
            with self.lock:
                self.now -= 1
            return result

        return Job(work, memory)


@pytest.mark.parametrize(
    ("jobs", "memory", "most"),
    [(1, None, 1), (2, None, 2), (3, 10 * GB, 3), (3, 5 * GB, 2), (3, 3 * GB, 1), (3, 1 * GB, 1)],
)
def test_jobs_keep_to_the_places_and_to_the_memory(jobs, memory, most):
    gauge = Gauge()
    work = [gauge.job(number, 2 * GB) for number in range(6)]
    assert run_jobs(work, Limits(jobs, memory), Silent()) == list(range(6))
    assert gauge.most == most


def test_a_small_job_goes_before_a_large_one_that_must_wait():
    gauge, order = Gauge(), []

    def noted(name, memory):
        def work(progress):
            order.append(name)
            return gauge.job(name).work(progress)

        return Job(work, memory)

    work = [noted("first", 3 * GB), noted("large", 4 * GB), noted("small", 1 * GB)]
    assert run_jobs(work, Limits(2, 5 * GB), Silent()) == ["first", "large", "small"]
    assert order == ["first", "small", "large"]


def test_the_longest_begins_first_and_results_keep_their_order():
    order = []

    def work(name):
        def noted(progress):
            order.append(name)
            return name

        return noted

    jobs = [Job(work(name), 0, seconds) for name, seconds in [("a", 1), ("b", 3), ("c", 2)]]
    assert run_jobs(jobs, Limits(2), Silent()) == ["a", "b", "c"]
    assert set(order[:2]) == {"b", "c"}


@pytest.mark.parametrize("places", [1, 2])
def test_what_follows_a_job_begins_when_it_has_ended_and_is_waited_for(places):
    done = []

    def job(name, seconds=0.0, then=()):
        def work(progress):
            time.sleep(0.02)
            done.append(name)
            return name

        def following(result):
            assert result == name and name in done
            return then

        return Job(work, 0, seconds, following)

    last = job("last")
    jobs = [job("a", 3, [job("after a", 1, [last]), job("urgent", 9)]), job("b", 2)]
    assert run_jobs(jobs, Limits(places), Silent()) == ["a", "b"]
    assert sorted(done) == ["a", "after a", "b", "last", "urgent"]
    assert done.index("urgent") < done.index("last")
    assert done.index("after a") < done.index("last")
    assert run_jobs([job("alone", then=[job("after")])], Limits(places), Silent()) == ["alone"]
    assert done[-1] == "after"


def test_the_first_error_ends_every_other_worker_and_job():
    started = threading.Event()

    def wait_for_ever(progress):
        started.set()
        return subprocess_worker.call("worker_jobs:sleep", {}, lambda done, total: None, "sleeps")

    def compute_for_ever(progress):
        while True:
            progress.advance(1)
            time.sleep(0.01)

    def fail(progress):
        assert started.wait(20)
        time.sleep(0.3)  # the other's worker runs
        raise BackendError("no luck", "none")

    begun = time.monotonic()
    work = [Job(each, 0) for each in (wait_for_ever, compute_for_ever, fail)]
    with pytest.raises(BackendError, match="no luck"):
        run_jobs(work, Limits(3), Silent())
    assert time.monotonic() - begun < 20


def test_a_worker_s_peak_is_that_of_what_it_started_too():
    ledger = Ledger(Silent())
    ledger.stage("nested", 1)
    payload = {"bytes": 400_000_000}
    subprocess_worker.call("worker_jobs:hold_inside", payload, lambda done, total: None, "holds")
    ledger.end()
    (cost,) = ledger.costs
    assert cost.memory is not None and cost.memory > 400_000_000


def test_a_ledger_keeps_the_stages_of_all_threads_and_the_memory_of_their_workers():
    ledger = Ledger(Silent())

    def work(name, size):
        def run(progress):
            progress.stage(name, 1)
            payload = {"bytes": size}
            subprocess_worker.call("worker_jobs:hold", payload, lambda done, total: None, "holds")

        return Job(run, 0)

    ledger.stage("alone", 1)
    run_jobs([work("little", 0), work("much", 400_000_000)], Limits(2), ledger)
    ledger.end()
    costs = {each.label: each for each in ledger.costs}
    assert set(costs) == {"alone", "little", "much"}
    alone, first = costs["alone"], min(costs["little"].start, costs["much"].start)
    assert alone.start + alone.seconds <= first + 0.05  # it ended when they began
    assert costs["much"].seconds > 0
    little, much = costs["little"].memory, costs["much"].memory
    assert little is not None and much is not None
    assert much - little > 300_000_000


@pytest.mark.parametrize(("places", "jobs", "share"), [(2, 2, 2), (4, 2, 2), (2, 3, 2), (8, 8, 1)])
def test_jobs_side_by_side_share_the_cores_and_one_alone_has_all(monkeypatch, places, jobs, share):
    monkeypatch.setattr(system_jobs, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def ask(progress):
        return subprocess_worker.call("worker_jobs:threads", {}, lambda done, total: None, "asks")

    first, *_ = run_jobs([Job(ask, 0)] * jobs, Limits(places), Silent())
    assert first == [share, str(share)]
    assert run_jobs([Job(ask, 0)], Limits(places), Silent()) == [[0, None]]


def test_a_user_s_own_number_of_threads_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert thread_settings() == {}
    token = SHARE.set(3)
    try:
        assert subprocess_worker.environment()["OMP_NUM_THREADS"] == "7"
        assert thread_settings()["OMP_NUM_THREADS"] == "3"
    finally:
        SHARE.reset(token)


@pytest.mark.parametrize(
    ("places", "forecasts", "given"),
    [
        (1, (2 * GB, GB // 2), [4 * GB, 4 * GB]),
        (2, (3 * GB, GB // 2), [3 * GB, GB]),  # more than its part: what the forecast says
        (2, (GB, GB // 2), [2 * GB, 2 * GB]),  # its part of the budget, which the other leaves
        (2, (5 * GB, GB // 2), [4 * GB, 2 * GB]),  # one after the other
    ],
)
def test_a_job_s_workers_know_the_memory_that_they_may_take(places, forecasts, given):
    def ask(progress):
        return subprocess_worker.call("worker_jobs:memory", {}, lambda done, total: None, "asks")

    limits = Limits(places, memory=4 * GB)
    first, second = (Job(ask, each) for each in forecasts)
    assert run_jobs([replace(first, seconds=2), second], limits, Silent()) == given
    assert run_jobs([Job(ask, 5 * GB)], limits, Silent()) == [4 * GB]
    assert ask(Silent()) is None


def test_what_this_process_holds_is_no_memory_of_its_jobs(monkeypatch):
    def ask(progress):
        return subprocess_worker.call("worker_jobs:memory", {}, lambda done, total: None, "asks")

    monkeypatch.setattr(system_jobs, "tree_memory", lambda root: GB)
    assert run_jobs([Job(ask, 0)], Limits(1, memory=3 * GB), Silent()) == [2 * GB]
    assert run_jobs([Job(ask, 0)] * 2, Limits(2, memory=3 * GB), Silent()) == [GB, GB]


@pytest.mark.skipif(sys.platform != "linux", reason="the system holds no process to its memory")
def test_no_worker_passes_the_memory_that_a_command_names():
    def hold(progress):
        payload = {"bytes": 400_000_000}  # twice
        return subprocess_worker.call("worker_jobs:hold_inside", payload, lambda *_: None, "holds")

    def built(memory):
        return run_jobs([Job(hold, 0)], Limits(1, memory), Silent())

    assert built(2 * GB) == built(None) == [400_000_000]
    with pytest.raises(SlmkitError) as caught:
        built(GB // 2)
    assert caught.value.message == "a process needs more than the 0.5 GB of --memory"
    assert "--memory" in caught.value.hint


def test_a_crash_within_a_limit_names_it():
    def crash(progress):
        return subprocess_worker.call("worker_jobs:talk", {"crash": True}, lambda *_: None, "talks")

    with pytest.raises(SlmkitError, match=r"died \(SIGSEGV\); --memory lets it hold 2.5 GB"):
        run_jobs([Job(crash, 0)], Limits(1, 5 * GB // 2), Silent())
    with pytest.raises(SlmkitError, match="SIGSEGV") as caught:
        run_jobs([Job(crash, 0)], Limits(1), Silent())
    assert "--memory" not in caught.value.message
