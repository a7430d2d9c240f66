"""Run one artifact over sequences, for parity: the job that runs in a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.artifact import artifact_from_json
from slmkit.backend.build_cache import using_cache
from slmkit.backend.interface import InParts, Prefilling, Runner, TakesAdapters
from slmkit.backend.registry import find_backend
from slmkit.evaluation.answers_file import measure_runner, read_through
from slmkit.ops import Floats
from slmkit.parity.crossing import crossing_from_json, follow_crossing
from slmkit.parity.golden import Ids, chunks
from slmkit.system.subprocess_worker import Report

CROSSING = "crossing.npy"  # logits of the whole context's positions that count


def run_job(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Feed each sequence (chunks, then token by token), decode on; logits go to N.npy files.

    Then a text as long as the context, if the job has one; then held-out text, which is compared
    with the float model's answers.
    """
    runner = _open(payload)
    parts = runner.parts if isinstance(runner, InParts) and _all_known(payload) else 1
    if not isinstance(runner, InParts) or parts == 1:
        return _answer(runner, payload, report)
    found: dict[str, Any] = {}
    for number in range(parts):
        runner.open_part(number)
        found = _answer(runner, payload, _part_of(report, parts), last=number == parts - 1)
    return found | {"runtime": f"{runner.runtime}, in {parts} parts"}


def _all_known(payload: dict[str, Any]) -> bool:
    """Whether no token depends on an answer, so that the model's parts may run one by one."""
    return not any(payload["decode"])


def _part_of(report: Report, parts: int) -> Report:
    """A report of tokens that are fed once for each of some parts."""
    fed = 0

    def part(done: int, total: int) -> None:
        nonlocal fed
        before, fed = fed // parts, fed + done
        report(fed // parts - before, total)

    return part


def _answer(
    runner: Runner, payload: dict[str, Any], report: Report, last: bool = True
) -> dict[str, Any]:
    """The whole job once; of a model in parts, the ``last`` one alone has logits: those of the
    others are empty."""
    sequences = []
    plans = zip(payload["sequences"], payload["prompt_lengths"], payload["decode"], strict=True)
    for at, (ids, prompt_length, decode) in enumerate(plans):
        whole, logits = follow(
            runner, np.asarray(ids, dtype=np.int64), prompt_length, decode, report
        )
        np.save(Path(payload["out"]) / f"{at}.npy", logits)
        sequences.append(whole.tolist())
    found: dict[str, Any] = {"sequences": sequences, "runtime": runner.runtime}
    if "crossing" in payload:
        crossing = crossing_from_json(payload["crossing"])
        logits = follow_crossing(runner, crossing, lambda done: report(done, 0))
        np.save(Path(payload["out"]) / CROSSING, logits)
    if "held_out" in payload:
        about = Path(payload["held_out"]), payload["chunk"], lambda done: report(done, 0)
        if last:
            found["divergence"] = measure_runner(runner, *about)
        else:
            read_through(runner, *about)
    return found


def _open(payload: dict[str, Any]) -> Runner:
    artifact = artifact_from_json(payload["artifact"])
    backend = find_backend(artifact.name)
    about = Path(payload["folder"]), artifact, payload["mode"]
    with using_cache(Path(payload["cache"]) if "cache" in payload else None):
        if "adapter" in payload and isinstance(backend, TakesAdapters):
            return backend.open_adapted_runner(*about, Path(payload["adapter"]))
        return backend.open_runner(*about)


def follow(
    runner: Runner, ids: Ids, prompt_length: int, decode: int, report: Report
) -> tuple[Ids, Floats]:
    """One sequence through the cache, then ``decode`` greedy tokens: ids and logits (T, V).

    Of a runner that reads prompts in an app's way, the prompt's last logits are those of that way.
    """
    told = _prompt_answer(runner, ids[:prompt_length])
    runner.reset()
    logits = []
    for chunk in chunks(ids, prompt_length):
        logits.append(runner.feed(chunk))
        report(len(chunk), 0)
    generated = []
    for _ in range(decode):
        generated.append(int(logits[-1][-1].argmax()))
        logits.append(runner.feed(np.asarray(generated[-1:])))
        report(1, 0)
    rows = np.concatenate(logits)
    if told is not None:
        rows[prompt_length - 1] = told
    return np.concatenate([ids, np.asarray(generated, dtype=np.int64)]), rows


def _prompt_answer(runner: Runner, prompt: Ids) -> Floats | None:
    """The logits of ``prefill`` after a prompt, (V,); None for a runner that has but ``feed``."""
    if not isinstance(runner, Prefilling):
        return None
    runner.reset()
    return runner.prefill(prompt)
