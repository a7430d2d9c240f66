"""Signals that end a program do what Ctrl-C does: everything is cleaned up on the way out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """SIGTERM or SIGHUP has come."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def signal_number(error: KeyboardInterrupt) -> int:
    """The signal that interrupted."""
    return error.number if isinstance(error, Ended) else int(signal.SIGINT)


@contextlib.contextmanager
def cleaned_up() -> Iterator[None]:
    """Raise ``Ended`` for SIGTERM and SIGHUP; one that is ignored, as by nohup, stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in SIGNALS}
    for each, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(each, _raise)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Ended(number)
