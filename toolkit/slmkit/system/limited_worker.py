"""A worker process for functions that read what strangers wrote: each call has limits.

One process answers many calls, so that a call costs a fraction of a millisecond. A call that uses
more time or memory than it may, or that crashes, ends the process; the next one gets a new process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from slmkit.errors import SlmkitError, error_of
from slmkit.system.subprocess_worker import environment

START = "from slmkit.system.limited_worker import main; main()"
PATIENCE = 6  # seconds of the clock for a second of computing, on a busy machine
STATM = "/proc/self/statm"  # Linux: memory of a process, in pages


@dataclass(frozen=True)
class Limits:
    """How much a call may use."""

    seconds: int = 10  # of computing
    memory: int = 10**9  # bytes, beyond what the process had


class LimitExceeded(Exception):
    """A call was ended, or raised something; the message says in words what happened."""


class LimitedWorker:
    """A process that answers calls, one at a time; started by the first one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # the process that started it: one that was forked starts its own
        self._rest = b""
        self._lock = threading.Lock()

    def call(self, function: str, arguments: list[Any], limits: Limits) -> Any:
        """The result of ``function``, "module:name", of JSON values.

        Raises SlmkitError as the function does, and LimitExceeded for everything else.
        """
        try:
            request = json.dumps([function, arguments, asdict(limits)]).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise LimitExceeded(f"its values are not those of JSON: {_said(error)}") from None
        with self._lock:
            process = self._running()
            try:
                line = self._exchange(process, request, limits)
            except BaseException:
                self.stop()
                raise
        kind, *content = json.loads(line)
        if kind == "error":
            raise error_of(*content)
        if kind == "failed":
            raise LimitExceeded(*content)
        return content[0]

    def stop(self) -> None:
        """End the process, if it runs."""
        process, self._process, self._rest = self._process, None, b""
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            self._owner, self._rest = os.getpid(), b""
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment() | {"TOKENIZERS_PARALLELISM": "false"},
            )
        return self._process

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, limits: Limits) -> bytes:
        """Send a request, wait for the line that answers it."""
        assert process.stdin and process.stdout  # noqa: S101 - for the types: they are pipes
        with contextlib.suppress(BrokenPipeError):  # it ended: its exit code says why
            sent = memoryview(request)
            while sent:
                sent = sent[process.stdin.write(sent) or 0 :]
        end = time.monotonic() + PATIENCE * limits.seconds
        pieces, source = [self._rest], process.stdout.fileno()
        while b"\n" not in pieces[-1]:
            left = end - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                raise LimitExceeded(_too_slow(limits))
            piece = os.read(source, 1 << 20)
            if not piece:
                raise LimitExceeded(_ended(process.wait(), limits))
            pieces.append(piece)
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        return line


def _too_slow(limits: Limits) -> str:
    return f"it took more than {limits.seconds} s"


def _too_large(limits: Limits) -> str:
    return f"it needs more than {limits.memory / 1e9:.1f} GB of memory"


def _ended(code: int, limits: Limits) -> str:
    """Why a worker has ended, by its exit code."""
    if code == -signal.SIGXCPU:
        return _too_slow(limits)
    if code in (-signal.SIGABRT, -signal.SIGKILL):  # how native code ends without memory
        return _too_large(limits)
    return f"it crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


WORKER = LimitedWorker()
atexit.register(WORKER.stop)


def main() -> None:
    """Entry point of the worker process: answer until stdin closes."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of native libraries are no answers
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for line in sys.stdin.buffer:
        function, arguments, limits = json.loads(line)
        answers.write(_answer(function, arguments, Limits(**limits)) + b"\n")
        answers.flush()
    os._exit(0)


def _answer(function: str, arguments: list[Any], limits: Limits) -> bytes:
    """The answer to one request, as JSON. Whatever the function raises becomes one."""
    module, name = function.split(":")
    work = getattr(import_module(module), name)
    try:
        return json.dumps(["result", _limited(work, arguments, limits)]).encode()
    except SlmkitError as error:
        answer = ["error", type(error).__name__, error.message, error.hint]
    except MemoryError:
        answer = ["failed", _too_large(limits)]
    except RecursionError:
        answer = ["failed", "it is nested too deeply"]
    except BaseException as error:  # a panic of native code is no Exception
        answer = ["failed", _said(error)]
    return json.dumps(answer).encode()


def _limited(work: Callable[..., Any], arguments: list[Any], limits: Limits) -> Any:
    _set_limits(limits)
    try:
        return work(*arguments)
    finally:
        _set_limits(None)


def _set_limits(limits: Limits | None) -> None:
    """Limits beyond what this process has used until now; None: none."""
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        seconds = int(time.process_time()) + 1 + limits.seconds if limits else hard
        resource.setrlimit(resource.RLIMIT_CPU, (_least(seconds, hard), hard))
    with contextlib.suppress(OSError, ValueError):  # other systems do not tell: no limit there
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        space = _space() + limits.memory if limits else hard
        resource.setrlimit(resource.RLIMIT_AS, (_least(space, hard), hard))


def _least(wanted: int, hard: int) -> int:
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _space() -> int:
    """Bytes of this process's address space. Raises OSError where the system does not tell."""
    with open(STATM, encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _said(error: BaseException) -> str:
    """An error in one short line."""
    text = " ".join(str(error).encode("utf-8", "replace").decode().split())
    return text[:300] or type(error).__name__
