"""Worker processes that end together: those of jobs that run side by side."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from contextvars import ContextVar

from slmkit.system.process_memory import tree_memory


class WorkerGroup:
    """The running workers of several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: list[Member] = []
        self.stopped = False

    @contextlib.contextmanager
    def member(self) -> Iterator[Member]:
        """A place for one worker; it is free again afterwards."""
        own = Member(self)
        with self._lock:
            self._members.append(own)
        try:
            yield own
        finally:
            with self._lock:
                self._members.remove(own)

    def stop(self) -> None:
        """End all workers, and those that are going to start."""
        with self._lock:
            self.stopped = True
            for each in self._members:
                each.stop()

    def memory(self) -> int:
        """Bytes that the workers and what they started hold now."""
        with self._lock:
            running = [each.process.pid for each in self._members if each.process is not None]
        return sum(tree_memory(process) or 0 for process in running)


class Member:
    """The place of one worker in its group."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group
        self.process: subprocess.Popen[bytes] | None = None

    def joined(self, process: subprocess.Popen[bytes]) -> None:
        """The worker has started; in a group that was stopped it ends at once."""
        self.process = process
        if self._group.stopped:
            self.stop()

    def stop(self) -> None:
        """End the worker, if it runs."""
        if self.process is not None:
            self.process.kill()


GROUP: ContextVar[WorkerGroup] = ContextVar("workers", default=WorkerGroup())  # noqa: B039
