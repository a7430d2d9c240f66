"""Speed of a model that answers: one timed answer, and what several of them say."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from slmkit.backend.interface import Runner
from slmkit.inference.continued import read_prompt
from slmkit.parity.golden import Ids

PROMPT = 64  # tokens that are in the cache before, and
DECODED = 32  # tokens that are decoded: fewer in a short context
ROUNDS = 5  # of which the median counts


@dataclass(frozen=True)
class Timing:
    """One answer."""

    prompt: int  # tokens
    prefill_s: float  # seconds until the token that follows the prompt is known
    decoded: int  # tokens after that one
    decode_s: float

    @property
    def prefill(self) -> float:
        """Tokens of the prompt per second."""
        return self.prompt / self.prefill_s

    @property
    def decode(self) -> float:
        """Decoded tokens per second."""
        return self.decoded / self.decode_s


def timed_answer(runner: Runner, ids: Ids, count: int, chunk: int) -> Timing:
    """Read a prompt into an empty cache, then decode ``count`` tokens one by one, greedily."""
    runner.reset()
    begin = time.perf_counter()
    token = int(read_prompt(runner, ids, chunk).argmax())
    read = time.perf_counter()
    for _ in range(count):
        token = int(runner.feed(np.asarray([token], dtype=np.int64))[-1].argmax())
    end = time.perf_counter()
    return Timing(len(ids), read - begin, count, end - read)


def decode_speeds(
    runners: Sequence[Runner], prompt: Ids, chunk: int, report: Callable[[int], None]
) -> list[float]:
    """Tokens per second of each runner, decoding one by one after the same prompt: the median of
    rounds that alternate between the runners, so that a busy machine slows all of them. The first,
    which may set something up, is not counted.

    ``report`` is called with 1 after each runner of each round.
    """
    rates: list[list[float]] = [[] for _ in runners]
    for number in range(ROUNDS + 1):
        for rate, runner in zip(rates, runners, strict=True):
            ids = prompt[: min(PROMPT, runner.context_length // 2)]
            count = min(DECODED, runner.context_length - len(ids))
            measured = timed_answer(runner, ids, count, chunk).decode
            if number:
                rate.append(measured)
            report(1)
    return [statistics.median(rate) for rate in rates]
