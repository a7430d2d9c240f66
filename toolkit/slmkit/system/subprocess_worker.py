"""Run a job in a worker process: a native crash there becomes an error, and memory is freed.

The parent writes one JSON line (the job) to stdin and keeps the pipe open: when the parent ends,
for whatever reason, the pipe closes and the worker ends. The worker answers in JSON lines.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

from slmkit.errors import BackendError, SlmkitError, error_of
from slmkit.system.process_memory import peak_with_children
from slmkit.system.scratch import scratch
from slmkit.system.workers.group import GROUP
from slmkit.system.workers.memory import (
    LIMIT,
    keep_limit,
    memory_settings,
    note_peak,
    own_limit,
)
from slmkit.system.workers.output import collected, save
from slmkit.system.workers.threads import thread_settings

START = "from slmkit.system.subprocess_worker import main; main()"
SETTINGS = ("KERAS_HOME", "MPLCONFIGDIR")  # folders that libraries else make in the home folder
QUIET = {"ORT_DISABLE_TELEMETRY": "1"}  # of processes that may import ONNX Runtime
LITTLE = 1 << 20  # bytes: a disk that has less is full
MORE_MEMORY = "give it more with --memory, or choose other artifacts with --artifacts"
FULL = (errno.ENOSPC, errno.EDQUOT)
Report = Callable[[int, int], None]  # (done, total)


def call(
    job: str, payload: dict[str, Any], report: Report, about: str, timeout: float | None = None
) -> Any:
    """Run a job in a new process and return its result.

    ``job``: "module:function", called with the payload and a ``Report``; ``about``: the work, for
    errors ("the process that ABOUT died"); ``timeout``: in seconds, None for no limit.
    Raises the job's SlmkitError, or BackendError if the process died or was too slow.
    """
    # The worker's temporary files are in a folder of ours: it may be killed.
    with scratch() as folder, collected(about) as (errors, printed), GROUP.get().member() as member:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            env=dict.fromkeys(SETTINGS, str(folder)) | environment() | {"TMPDIR": str(folder)},
        )
        member.joined(process)
        timed_out = threading.Event()
        timer = threading.Timer(timeout or 0, _stop, (process, timed_out))
        if timeout is not None:
            timer.start()
        try:
            return _exchange(process, json.dumps([job, payload]), report, about, errors)
        except BackendError:
            if timed_out.is_set():
                raise _timeout_error(about, timeout) from None
            raise
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def environment() -> dict[str, str]:
    """The variables of a new Python process with this one's import path."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return {**QUIET, **thread_settings(), **memory_settings(), **os.environ, "PYTHONPATH": path}


def _exchange(
    process: subprocess.Popen[bytes], job: str, report: Report, about: str, errors: IO[bytes]
) -> Any:
    """Send the job, pass progress on, return the result or raise the error."""
    if process.stdin is None or process.stdout is None:
        raise ValueError("the worker needs pipes")
    process.stdin.write(job.encode() + b"\n")
    process.stdin.flush()
    activity = ""
    for line in process.stdout:
        kind, *content = json.loads(line)
        if kind == "progress":
            report(content[0], content[1])
        elif kind == "doing":
            activity = content[0]
        elif kind == "peak":
            note_peak(content[0])
        elif kind == "error":
            raise error_of(*content)
        else:
            return content[0]
    raise _crash_error(process.wait(), about, activity, errors)


def _stop(process: subprocess.Popen[bytes], timed_out: threading.Event) -> None:
    timed_out.set()
    process.kill()


def _timeout_error(about: str, timeout: float | None) -> BackendError:
    return BackendError(
        f"the process that {about} was stopped: it took more than {timeout:g} s",
        "the other artifacts are not affected: choose them with --artifacts, or give it more time "
        "in the recipe",
    )


def _crash_error(code: int, about: str, activity: str, errors: IO[bytes]) -> BackendError:
    status = f"exit code {code}"
    if code < 0:
        status = signal.Signals(-code).name
    work, about = about, f"{about}, while {activity}," if activity else about
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    output = f"; its last line of output: {last[0]}" if last else ""
    kept = save(errors, f"{work} {status}")
    output += f"; all of it is in {kept}" if kept else ""
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < LITTLE:
        return BackendError(
            f"the process that {about} died ({status}), and {folder} is full{output}",
            "make room there, or name another folder for temporary files in TMPDIR",
        )
    memory = "; the machine may be out of memory" if code == -signal.SIGKILL else ""
    limit = LIMIT.get()
    hint = "the other artifacts are not affected: choose them with --artifacts; please report this"
    if limit is not None:  # whether it needed more, nobody tells
        memory += f"; --memory lets it hold {_gb(limit)}"
        hint = f"if it needs more, {MORE_MEMORY}; please report anything else"
    return BackendError(f"the process that {about} died ({status}){memory}{output}", hint)


def _gb(size: int) -> str:
    return f"{size / 10**9:g} GB"


def doing(text: str) -> None:
    """In a worker, note the current activity for the error of a crash; elsewhere do nothing."""
    if _answer:
        _answer[0]("doing", text)


_answer: list[Callable[..., None]] = []  # in a worker, the function that writes an answer


def main() -> None:
    """Entry point of the worker process."""
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # prints of native libraries go to stderr, not among the answers
    job, payload = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def answer(*content: Any) -> None:
        answers.write(json.dumps(content) + "\n")

    _answer.append(answer)
    module, name = job.split(":")
    try:
        keep_limit()
        work = getattr(import_module(module), name)
        result = work(payload, lambda done, total: answer("progress", done, total))
        answer("peak", peak_with_children())
        answer("result", result)
    except SlmkitError as error:
        answer("error", type(error).__name__, error.message, error.hint)
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        hint = f"temporary files are in {tempfile.gettempdir()}; make room there and in --out"
        answer("error", "SlmkitError", f"the disk is full{where}: {error.strerror}", hint)
    except MemoryError:
        limit = own_limit()
        if limit is None:
            answer("error", "SlmkitError", "this computer's memory is full", "close other programs")
        else:
            said = f"a process needs more than the {_gb(limit)} of --memory"
            answer("error", "SlmkitError", said, MORE_MEMORY)
    answers.flush()
    os._exit(0)  # skip destructors of native libraries, which can be slow or crash


def _end_with_parent() -> None:
    """Exit when stdin closes, which happens when the parent ends."""
    sys.stdin.read()
    os._exit(1)
