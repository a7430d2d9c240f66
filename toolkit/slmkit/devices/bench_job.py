"""One run of a benchmark, in a process of its own: load, the first answer, warm answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.artifact import artifact_from_json
from slmkit.backend.interface import Runner
from slmkit.backend.registry import find_backend
from slmkit.backend.threads import asked_threads
from slmkit.devices.peers import open_peer
from slmkit.inference.speed import Timing, timed_answer
from slmkit.parity.execute import follow
from slmkit.parity.golden import Ids
from slmkit.system.process_memory import peak_memory
from slmkit.system.subprocess_worker import Report

Answer = Callable[[Ids, int], Timing]


def run_job(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Load a model and answer prompts of each length.

    The first answer of the process is the cold one. Each length is then answered twice, of which
    the second counts. Golden prompts, if the job has some, are followed last: their logits go to
    N.npy files. Memory is read before that.
    """
    ids, count = np.asarray(payload["ids"], dtype=np.int64), payload["decode"]
    before, begin = peak_memory(), time.perf_counter()
    with asked_threads(payload["threads"]):
        runtime, answer, runner = _opened(payload)
    loaded = time.perf_counter() - begin
    lengths = payload["lengths"]
    cold = answer(ids[: lengths[0]], count)
    report(1, 0)
    warm = []
    for length in lengths:
        if length != lengths[0]:
            answer(ids[:length], count)
        warm.append(answer(ids[:length], count))
        report(1, 0)
    found = {
        "runtime": runtime,
        "load_s": loaded,
        "memory_before": before,
        "memory": peak_memory(),
        "cold": _to_json(cold),
        "warm": [_to_json(each) for each in warm],
    }
    if runner is not None:
        for at, (sequence, prompt) in enumerate(payload.get("golden", ())):
            _, logits = follow(runner, np.asarray(sequence, dtype=np.int64), prompt, 0, report)
            np.save(Path(payload["out"]) / f"{at}.npy", logits)
    return found


def timing_from_json(values: dict[str, Any]) -> Timing:
    """A timing that a worker sent."""
    return Timing(**values)


def _opened(payload: dict[str, Any]) -> tuple[str, Answer, Runner | None]:
    """The runtime's name, and the function that answers; the runner of an artifact."""
    if "artifact" not in payload:
        peer = open_peer(Path(payload["path"]), payload["threads"], payload["context"])
        return peer.runtime, peer.answer, None
    artifact = artifact_from_json(payload["artifact"])
    backend = find_backend(artifact.name)
    runner = backend.open_runner(Path(payload["path"]), artifact, payload["mode"])
    chunk = payload["chunk"]
    return runner.runtime, lambda ids, count: timed_answer(runner, ids, count, chunk), runner


def _to_json(timing: Timing) -> dict[str, Any]:
    return {
        "prompt": timing.prompt,
        "prefill_s": timing.prefill_s,
        "decoded": timing.decoded,
        "decode_s": timing.decode_s,
    }
