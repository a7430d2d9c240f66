"""Run a command and watch what it costs: wall time and memory, its children's included."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import psutil

STAGE = "slmkit: "  # before a stage's name on stderr
EVERY = 0.05  # seconds between two looks at the tree


def watched(command: list[str], **options: Any) -> dict[str, float]:
    """What a command costs that must not fail."""
    status, found = tried(command, **options)
    if status:
        raise SystemExit(f"{command} failed with {status}")
    return found


def tried(
    command: list[str],
    most: float = math.inf,
    sampled: Callable[[float], None] | None = None,
    **options: Any,
) -> tuple[int, dict[str, float]]:
    """The exit status, and wall time; the largest process's peak (as ``time -v`` has it); the
    tree's peak, sampled, and told each time. After ``most`` seconds all of the tree is ended."""
    begun = time.monotonic()
    process = subprocess.Popen(command, **options)
    found = {"largest_process_gb": 0.0, "tree_gb": 0.0}
    done = threading.Event()

    def sample() -> None:
        root = psutil.Process(process.pid)
        while not done.wait(EVERY):
            size = sum(_resident(each) for each in _family(root)) / 1e9
            found["tree_gb"] = max(found["tree_gb"], size)
            if sampled is not None:
                sampled(size)
            if time.monotonic() - begun > most:
                _end(_family(root))

    thread = threading.Thread(target=sample)
    thread.start()
    _, status, usage = os.wait4(process.pid, 0)
    done.set()
    thread.join()
    found["largest_process_gb"] = usage.ru_maxrss / 1e6
    found["seconds"] = time.monotonic() - begun
    return os.waitstatus_to_exitcode(status), found


def parser(about: str | None) -> ArgumentParser:
    """What every benchmark of a build asks for."""
    found = ArgumentParser(description=about)
    found.add_argument("checkpoint", type=Path)
    found.add_argument("folder", type=Path)
    found.add_argument("--recipe", default="int4")
    found.add_argument("--context", default="512")
    return found


def build_command(asked: Namespace, target: str, artifact: str, out: Path, *more: str) -> list[str]:
    """A build of one artifact without a cache, as a benchmark was asked for it."""
    return [
        sys.executable,
        "-m",
        "slmkit",
        "build",
        "--target",
        target,
        "--no-cache",
        "--model",
        str(asked.checkpoint),
        "--recipe",
        asked.recipe,
        "--artifacts",
        artifact,
        "--context",
        asked.context,
        "--out",
        str(out),
        *more,
    ]


def staged(command: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """What a build costs, and the seconds of each of its stages; it must not fail."""
    status, cost, stages, said = stages_of(command)
    if status:
        raise SystemExit(f"{command} failed with {status}: {said}")
    return cost, {name: seconds for name, (seconds, _) in stages.items()}


def stages_of(
    command: list[str], most: float = math.inf, out: IO[bytes] | int = subprocess.DEVNULL
) -> tuple[int, dict[str, float], dict[str, tuple[float, float]], list[str]]:
    """A build's exit status, what it costs, seconds and GB of each of its stages by their lines on
    stderr, and what else it said there."""
    reading, writing = os.pipe()
    stages: list[tuple[str, float]] = [("begin", time.monotonic())]
    peaks: dict[str, float] = {}
    said: list[str] = []

    def sampled(size: float) -> None:
        now = stages[-1][0]
        peaks[now] = max(peaks.get(now, 0), size)

    def note() -> None:
        with os.fdopen(reading) as lines:
            for line in lines:
                if line.startswith(STAGE):
                    stages.append((line.strip().removeprefix(STAGE), time.monotonic()))
                else:
                    said.append(line.strip())

    thread = threading.Thread(target=note)
    thread.start()
    status, cost = tried(command, most, sampled, stdout=out, stderr=writing)
    os.close(writing)
    thread.join()
    stages.append(("end", time.monotonic()))
    each = {
        name: (round(end - begin, 1), round(peaks.get(name, 0), 2))
        for (name, begin), (_, end) in pairwise(stages)
    }
    return status, {key: round(value, 2) for key, value in cost.items()}, each, said


def _family(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _end(family: list[psutil.Process]) -> None:
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
