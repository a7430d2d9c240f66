"""Work in a process of its own: a native crash there is a sentence here, and frees its memory.

The parent writes one JSON line (the job) to stdin and keeps the pipe open: when the parent dies,
however it dies, the pipe closes and the worker ends. The worker answers in JSON lines.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

from slmkit.errors import BackendError, SlmkitError, error_of

START = "from slmkit.system.subprocess_worker import main; main()"
Report = Callable[[int, int], None]  # (done, total)


def call(
    job: str, payload: dict[str, Any], report: Report, about: str, timeout: float | None = None
) -> Any:
    """Run a job in a fresh process; its result. ``about`` names the work in errors.

    ``job``: "module:function", called with the payload and a report of progress. ``timeout`` in
    seconds.
    Raises what the job raised, or BackendError if the process died or was too slow.
    """
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
        )
        late = threading.Event()
        timer = threading.Timer(timeout or 0, _end, (process, late))
        if timeout is not None:
            timer.start()
        try:
            return _converse(process, json.dumps([job, payload]), report, about, errors)
        except BackendError:
            if late.is_set():
                raise _too_slow(about, timeout) from None
            raise
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _converse(
    process: subprocess.Popen[bytes], job: str, report: Report, about: str, errors: IO[bytes]
) -> Any:
    if process.stdin is None or process.stdout is None:
        raise ValueError("the worker needs pipes")
    process.stdin.write(job.encode() + b"\n")
    process.stdin.flush()
    now = ""
    for line in process.stdout:
        kind, *content = json.loads(line)
        if kind == "progress":
            report(content[0], content[1])
        elif kind == "doing":
            now = content[0]
        elif kind == "error":
            raise error_of(*content)
        else:
            return content[0]
    raise _died(process.wait(), about, now, errors)


def _end(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _too_slow(about: str, timeout: float | None) -> BackendError:
    return BackendError(
        f"the process that {about} was stopped: it took more than {timeout:g} s",
        "the other artifacts are not affected: choose them with --artifacts, or give it more time "
        "in the recipe",
    )


def _died(code: int, about: str, now: str, errors: IO[bytes]) -> BackendError:
    how = f"exit code {code}"
    if code < 0:
        how = signal.Signals(-code).name
    about = f"{about}, while {now}," if now else about
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    said = f"; its last words: {last[0]}" if last else ""
    memory = "; the machine may be out of memory" if code == -signal.SIGKILL else ""
    return BackendError(
        f"the process that {about} died ({how}){memory}{said}",
        "the other artifacts are not affected: choose them with --artifacts; please report this",
    )


def doing(text: str) -> None:
    """In a worker: what the work is at, for the case that it ends the process. Else nothing."""
    if _say:
        _say[0]("doing", text)


_say: list[Callable[..., None]] = []  # how this process, if it is a worker, answers


def main() -> None:
    """The worker's side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # native libraries that print do not disturb the answers
    job, payload = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def answer(*content: Any) -> None:
        answers.write(json.dumps(content) + "\n")

    _say.append(answer)
    module, name = job.split(":")
    try:
        work = getattr(import_module(module), name)
        answer("result", work(payload, lambda done, total: answer("progress", done, total)))
    except SlmkitError as error:
        answer("error", type(error).__name__, error.message, error.hint)
    answers.flush()
    os._exit(0)  # no slow or crashing destructors of native libraries


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)
