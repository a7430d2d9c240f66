"""Decode speed: tokens per second of the tokens that were decoded, of several runners in turns."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping

import numpy as np
import pytest

from slmkit.backend.threads import asked_threads, threads
from slmkit.inference.speed import DECODED, PROMPT, ROUNDS, decode_speeds, timed_answer
from slmkit.system.subprocess_worker import environment

PROMPT_IDS = np.arange(200)


class Slow:
    """A runner that needs some time for a feed, and notes them all."""

    runtime = "a test"
    taps: Mapping[str, np.ndarray] = {}

    def __init__(self, name, seconds, log, context_length=400):
        self.name, self.seconds, self.log = name, seconds, log
        self.context_length = context_length

    def reset(self):
        self.log.append((self.name, 0))

    def feed(self, ids):
        self.log.append((self.name, len(ids)))
        time.sleep(self.seconds)
        return np.eye(300, dtype=np.float32)[np.asarray(ids)]


def test_runners_take_turns_and_the_prompt_does_not_count():
    log: list[tuple[str, int]] = []
    done: list[int] = []
    runners = [Slow("one", 0.001, log), Slow("two", 0.01, log)]
    one, two = decode_speeds(runners, PROMPT_IDS, 16, done.append)
    assert 0 < two <= 100  # its sleep alone allows no more
    assert two < one <= 1000
    assert len(done) == 2 * (ROUNDS + 1)
    assert [name for name, count in log if not count] == ["one", "two"] * (ROUNDS + 1)
    lengths = [count for name, count in log if name == "one"]
    assert lengths[: 1 + PROMPT // 16] == [0] + [16] * (PROMPT // 16)
    assert lengths.count(1) == DECODED * (ROUNDS + 1)


@pytest.mark.parametrize("context", [8, 40])
def test_a_short_context_is_not_passed(context):
    log: list[tuple[str, int]] = []
    (rate,) = decode_speeds([Slow("one", 0, log, context)], PROMPT_IDS, 16, lambda done: None)
    assert rate > 0
    assert sum(count for _, count in log) <= context * (ROUNDS + 1)


class Reader(Slow):
    """A runner that reads a prompt in one go, without its logits."""

    def prefill(self, ids):
        self.log.append((f"{self.name} reads", len(ids)))
        return np.eye(300, dtype=np.float32)[ids[-1]]


def test_a_prompt_is_read_as_an_app_reads_it_where_the_runner_can():
    log: list[tuple[str, int]] = []
    found = timed_answer(Reader("one", 0.002, log), PROMPT_IDS[:50], 4, 16)
    assert log == [("one", 0), ("one reads", 50), *[("one", 1)] * 4]
    assert (found.prompt, found.decoded) == (50, 4)
    assert found.decode_s >= 4 * 0.002 and found.decode == 4 / found.decode_s
    assert found.prefill == 50 / found.prefill_s


def test_threads_are_the_runner_s_own_unless_asked_for():
    assert threads(7) == 7
    with asked_threads(2):
        assert threads(7) == 2
        with asked_threads(None):
            assert threads(7) == 7
        assert threads(7) == 2
    assert threads(7) == 7


PEAKS = """
from slmkit.system.process_memory import peak_memory
before = peak_memory()
held = bytearray(b"a" * 50_000_000)
most = peak_memory()
del held
print(before, most, peak_memory())
"""


def test_the_peak_of_memory_is_this_program_s_own_grows_and_stays():
    words = [sys.executable, "-c", PEAKS]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment())
    if "None" in done.stdout:
        pytest.skip("this system does not tell the memory of a process")
    before, most, later = map(int, done.stdout.split())
    assert before < 45_000_000  # far below that of this process, which started it
    assert most - before >= 50_000_000 and later >= most
