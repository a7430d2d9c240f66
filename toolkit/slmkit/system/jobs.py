"""Jobs that run side by side, within a number of cores and a budget of memory.

A job is a function that waits for a worker process or computes in libraries that release Python's
lock. It starts when a place is free and its forecast fits beside what the others hold or may still
take; a job that alone is larger than the budget runs when nothing else does.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from slmkit.system.process_memory import free_memory, tree_memory
from slmkit.system.progress import Progress, Through
from slmkit.system.workers.group import GROUP, WorkerGroup
from slmkit.system.workers.memory import given_memory, limited_memory
from slmkit.system.workers.threads import SHARE as THREADS

T = TypeVar("T")
_Numbered = tuple["int | None", "Job[Any]"]  # a job, with its place among those of the beginning
SHARE = 0.75  # of the memory that is free: the budget that nobody named


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Limits:
    """How many jobs run at once, and how much memory they may take together."""

    jobs: int = field(default_factory=cores)
    memory: int | None = None  # bytes; None: a share of what is free

    @property
    def budget(self) -> int | None:
        """Bytes; None where the system does not tell what is free."""
        if self.memory is not None:
            return self.memory
        free = free_memory()
        return None if free is None else int(SHARE * free)


def _nothing(result: Any) -> Sequence[Job[Any]]:
    """No jobs: so much follows a job by default."""
    return ()


@dataclass(frozen=True)
class Job(Generic[T]):
    """Work that reports to a progress of its own."""

    work: Callable[[Progress], T]
    memory: int  # bytes that it will take at most, by forecast
    seconds: float = 0.0  # that it will take, by forecast: the longest begins first
    then: Callable[[T], Sequence[Job[Any]]] = _nothing  # jobs that its result makes possible


@dataclass
class _Running(Generic[T]):
    number: int | None  # of a job that was there from the beginning
    job: Job[T]
    group: WorkerGroup

    @property
    def reserved(self) -> int:
        """Bytes that it may still come to hold."""
        return max(self.job.memory, self.group.memory())


def run_jobs(jobs: Sequence[Job[T]], limits: Limits, progress: Progress) -> list[T]:
    """Run all jobs, and those that follow them; the results of ``jobs``, in their order.

    No worker may hold more than ``limits`` name. Raises the first error of a job, and whatever
    interrupts the wait, after every other worker has been ended.
    """
    with limited_memory(limits.memory):
        return _run(jobs, limits, _beside_this_process(limits), progress)


def _run(jobs: Sequence[Job[T]], limits: Limits, budget: int | None, progress: Progress) -> list[T]:
    alone = len(jobs) < 2 and all(each.then is _nothing for each in jobs)
    if limits.jobs < 2 or alone:
        with given_memory(budget):
            return _one_by_one(jobs, progress)
    results: dict[int, T] = {}
    waiting: list[_Numbered] = _longest_first(enumerate(jobs))
    running: dict[Future[Any], _Running[Any]] = {}
    with ThreadPoolExecutor(limits.jobs) as pool:
        try:
            while waiting or running:
                while len(running) < limits.jobs and (found := _next(waiting, running, budget)):
                    waiting.remove(found)
                    beside = min(limits.jobs, 1 + len(running) + len(waiting))
                    share = max(1, cores() // beside)
                    begun = _Running(*found, WorkerGroup())
                    given = _given(begun.job, running, limits.jobs, budget)
                    running[_start(pool, begun, share, given, progress)] = begun
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    done, result = running.pop(future), future.result()
                    if done.number is not None:
                        results[done.number] = result
                    following = ((None, each) for each in done.job.then(result))
                    waiting = _longest_first([*waiting, *following])
        except BaseException:
            for each in running.values():
                each.group.stop()
            raise
    return [results[number] for number in range(len(jobs))]


def _beside_this_process(limits: Limits) -> int | None:
    """The budget of jobs: of a named amount of memory, what this process does not hold itself; what
    is free has left that out already."""
    if limits.memory is None:
        return limits.budget
    return max(0, limits.memory - (tree_memory(os.getpid()) or 0))


def _one_by_one(jobs: Sequence[Job[T]], progress: Progress) -> list[T]:
    """Run jobs in this thread, then those that follow them."""
    results, following = [], list[Job[Any]]()
    for each in jobs:
        results.append(each.work(progress))
        following += each.then(results[-1])
    while following:
        following.sort(key=lambda each: -each.seconds)
        job = following.pop(0)
        following += job.then(job.work(progress))
    return results


def _longest_first(jobs: Iterable[_Numbered]) -> list[_Numbered]:
    return sorted(jobs, key=lambda each: -each[1].seconds)


def _next(
    waiting: Sequence[_Numbered], running: dict[Future[Any], _Running[Any]], budget: int | None
) -> _Numbered | None:
    """The first job that fits; alone, any job does."""
    room = _room(running, budget)
    if not running or room is None:
        return waiting[0] if waiting else None
    return next((each for each in waiting if each[1].memory <= room), None)


def _room(running: dict[Future[Any], _Running[Any]], budget: int | None) -> int | None:
    """Bytes of the budget that the running jobs leave."""
    return None if budget is None else budget - sum(each.reserved for each in running.values())


def _given(
    job: Job[T], running: dict[Future[Any], _Running[Any]], places: int, budget: int | None
) -> int | None:
    """Bytes that a job may take beside the running ones: its part of the budget, or what it takes
    by forecast, if that is more; so the jobs that begin after it find theirs."""
    room = _room(running, budget)
    if room is None or budget is None:
        return None
    return min(room, max(job.memory, budget // places))


def _start(
    pool: ThreadPoolExecutor,
    begun: _Running[T],
    share: int,
    memory: int | None,
    progress: Progress,
) -> Future[T]:
    """Run a job in a thread, with this thread's settings, a group of workers of its own, a
    ``share`` of the cores for their threads and so much ``memory``."""

    def work() -> T:
        GROUP.set(begun.group)
        THREADS.set(share)
        with given_memory(memory), progress.branch() as own:
            return begun.job.work(_Stoppable(own, begun.group))

    return pool.submit(contextvars.copy_context().run, work)


class _Stopped(Exception):
    """Another job failed: nobody waits for this one."""


class _Stoppable(Through):
    """A job's progress, which ends the job's own computing when its workers have been ended."""

    def __init__(self, inner: Progress, group: WorkerGroup) -> None:
        super().__init__(inner)
        self._group = group

    def stage(self, label: str, total: int) -> None:
        """Pass the stage on, if somebody still waits for the job."""
        self._check()
        super().stage(label, total)

    def advance(self, done: int) -> None:
        """Pass the report on, if somebody still waits for the job."""
        self._check()
        super().advance(done)

    def beside(self, inner: Progress) -> Progress:
        """A branch, which is ended like this one."""
        return _Stoppable(inner, self._group)

    def _check(self) -> None:
        if self._group.stopped:
            raise _Stopped
