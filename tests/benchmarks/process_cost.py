"""Measure a command's wall time and memory, child processes included."""

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

STAGE = "slmkit: "  # prefix of a stage's name on stderr
GOES_ON = f"{STAGE}..."  # prefix of a line that says how far it is
INTERVAL = 0.05  # seconds between two samples of the process tree


def measure(command: list[str], **options: Any) -> dict[str, float]:
    """Run a command and return its cost; exits if it fails."""
    status, cost = run_measured(command, **options)
    if status:
        raise SystemExit(f"{command} failed with {status}")
    return cost


def run_measured(
    command: list[str],
    timeout: float = math.inf,
    on_sample: Callable[[float], None] | None = None,
    **options: Any,
) -> tuple[int, dict[str, float]]:
    """Run a command; returns its exit status and cost.

    ``seconds``: wall time; ``largest_process_gb``: peak of the largest process, as ``time -v``
    reports it; ``tree_gb``: sampled peak of the process tree, whose GB go to ``on_sample`` too.
    After ``timeout`` seconds the whole tree is killed.
    """
    start = time.monotonic()
    process = subprocess.Popen(command, **options)
    cost = {"largest_process_gb": 0.0, "tree_gb": 0.0}
    done = threading.Event()

    def sample() -> None:
        root = psutil.Process(process.pid)
        while not done.wait(INTERVAL):
            size = sum(_resident_bytes(each) for each in _process_tree(root)) / 1e9
            cost["tree_gb"] = max(cost["tree_gb"], size)
            if on_sample is not None:
                on_sample(size)
            if time.monotonic() - start > timeout:
                _kill(_process_tree(root))

    thread = threading.Thread(target=sample)
    thread.start()
    _, status, usage = os.wait4(process.pid, 0)
    done.set()
    thread.join()
    cost["largest_process_gb"] = usage.ru_maxrss / 1e6
    cost["seconds"] = time.monotonic() - start
    return os.waitstatus_to_exitcode(status), cost


def build_parser(description: str | None) -> ArgumentParser:
    """The arguments that all benchmarks of a build have."""
    parser = ArgumentParser(description=description)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="int4")
    parser.add_argument("--context", default="512")
    return parser


def build_command(
    options: Namespace, target: str, artifact: str, out: Path, *more: str
) -> list[str]:
    """The command that builds one artifact without a cache, with the benchmark's options."""
    return [
        sys.executable,
        "-m",
        "slmkit",
        "build",
        "--target",
        target,
        "--no-cache",
        "--model",
        str(options.checkpoint),
        "--recipe",
        options.recipe,
        "--artifacts",
        artifact,
        "--context",
        options.context,
        "--out",
        str(out),
        *more,
    ]


def measure_stages(command: list[str]) -> tuple[dict[str, float], dict[str, float]]:
    """Run a build; returns its cost and the seconds of each stage; exits if it fails."""
    status, cost, stages, messages = run_stages(command)
    if status:
        raise SystemExit(f"{command} failed with {status}: {messages}")
    return cost, {name: seconds for name, (seconds, _) in stages.items()}


def run_stages(
    command: list[str], timeout: float = math.inf, out: IO[bytes] | int = subprocess.DEVNULL
) -> tuple[int, dict[str, float], dict[str, tuple[float, float]], list[str]]:
    """Run a build; returns its exit status, cost, stages and other lines of stderr.

    Stages: name -> (seconds, peak GB), by the lines of stderr that begin with STAGE; of stages side
    by side, until the next one begins.
    """
    reading, writing = os.pipe()
    stages: list[tuple[str, float]] = [("begin", time.monotonic())]
    peaks: dict[str, float] = {}
    messages: list[str] = []

    def update_peak(size: float) -> None:
        stage = stages[-1][0]
        peaks[stage] = max(peaks.get(stage, 0), size)

    def read_lines() -> None:
        with os.fdopen(reading) as lines:
            for line in lines:
                if line.startswith(GOES_ON):
                    continue
                if line.startswith(STAGE):
                    stages.append((line.strip().removeprefix(STAGE), time.monotonic()))
                else:
                    messages.append(line.strip())

    thread = threading.Thread(target=read_lines)
    thread.start()
    status, cost = run_measured(command, timeout, update_peak, stdout=out, stderr=writing)
    os.close(writing)
    thread.join()
    stages.append(("end", time.monotonic()))
    rounded = {
        name: (round(end - begin, 1), round(peaks.get(name, 0), 2))
        for (name, begin), (_, end) in pairwise(stages)
    }
    return status, {key: round(value, 2) for key, value in cost.items()}, rounded, messages


def _process_tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
