"""Speed of decoding, of several models in turns, so that a busy machine slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from slmkit.backend.interface import Runner
from slmkit.parity.golden import Ids

PROMPT = 64  # tokens that are in the cache before, and
DECODED = 32  # tokens that are decoded: fewer in a short context
ROUNDS = 5  # of which the median counts


def decode_speeds(
    runners: Sequence[Runner], prompt: Ids, chunk: int, report: Callable[[int], None]
) -> list[float]:
    """Tokens per second of each runner, decoding one by one after the same prompt: the median of
    rounds that alternate between the runners. The first, which may set something up, is not
    counted.

    ``report`` is called with 1 after each runner of each round.
    """
    rates: list[list[float]] = [[] for _ in runners]
    for number in range(ROUNDS + 1):
        for rate, runner in zip(rates, runners, strict=True):
            measured = _rate(runner, prompt, chunk)
            if number:
                rate.append(measured)
            report(1)
    return [statistics.median(rate) for rate in rates]


def _rate(runner: Runner, prompt: Ids, chunk: int) -> float:
    """Tokens per second of one greedy answer."""
    room = runner.context_length
    ids = prompt[: min(PROMPT, room // 2)]
    count = min(DECODED, room - len(ids))
    runner.reset()
    for at in range(0, len(ids), chunk):
        logits = runner.feed(ids[at : at + chunk])
    start = time.perf_counter()
    for _ in range(count):
        logits = runner.feed(np.asarray([logits[-1].argmax()], dtype=np.int64))
    return count / (time.perf_counter() - start)
