"""Measure several models in turns, each round of each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.artifact import Artifact
from slmkit.devices.bench_job import timing_from_json
from slmkit.devices.elsewhere import Remote, outputs_in
from slmkit.devices.judged import cases_of, judged_tokens
from slmkit.devices.report import Case, Run, Samples, Speed, Tokens
from slmkit.errors import BackendError
from slmkit.inference.speed import Timing
from slmkit.parity.golden import Golden, outputs_of
from slmkit.recipe.bounds import Bound
from slmkit.system import subprocess_worker
from slmkit.system.progress import Progress
from slmkit.system.scratch import scratch


@dataclass
class Candidate:
    """A model that takes its turns: an artifact of a bundle, or a peer's."""

    name: str
    payload: dict[str, Any]  # of ``slmkit.devices.bench_job.run_job``
    size: int  # bytes of its files
    artifact: Artifact | None = None
    golden: Golden | None = None  # by which its tokens are judged
    results: list[dict[str, Any]] = field(default_factory=list)
    tokens: Tokens | None = None
    cases: tuple[Case, ...] = ()
    notices: tuple[str, ...] = ()
    remote: Remote | None = None  # where it runs, if not on this computer
    failed: BackendError | None = None  # its process ended with it: no more turns

    def run(self) -> Run:
        """All rounds, summed up."""
        results = self.results
        by_length = zip(*(result["warm"] for result in results), strict=True)
        known = [result["memory"] for result in results if result["memory"] is not None]
        return Run(
            name=self.name,
            mode=self.payload.get("mode", ""),
            peer=self.artifact is None,
            runtime=results[0]["runtime"],
            threads=results[0].get("threads", self.payload["threads"]),
            size=self.size,
            load_s=Samples.of([result["load_s"] for result in results]),
            cold=_speed([result["cold"] for result in results]),
            warm=tuple(_speed(timings) for timings in by_length),
            memory_peak=max(known, default=None),
            memory_before=results[0]["memory_before"],
            tokens=self.tokens,
            cases=self.cases,
            rank=None,
            notices=self.notices,
        )


def take_turns(
    candidates: Sequence[Candidate], bounds: Mapping[str, Bound], repeats: int, progress: Progress
) -> None:
    """Run every candidate once in each round; in the first, its tokens are judged too.

    Raises the last BackendError if the processes of all of them failed.
    """
    for number in range(repeats):
        left = [each for each in candidates if each.failed is None]
        steps = sum(len(each.payload["lengths"]) + 1 for each in left)
        progress.stage(f"round {number + 1} of {repeats}", steps)
        for each in left:
            try:
                _turn(each, bounds, number == 0, progress)
            except BackendError as error:
                each.failed = error
                if all(other.failed for other in candidates):
                    raise


def _turn(each: Candidate, bounds: Mapping[str, Bound], first: bool, progress: Progress) -> None:
    """One process of one candidate."""
    golden = each.golden if first else None
    with scratch() as out:
        payload = {**each.payload, "out": str(out)}
        if golden is not None:
            pairs = zip(golden.sequences, golden.prompt_lengths, strict=True)
            payload["golden"] = [(ids.tolist(), length) for ids, length in pairs]
        if each.remote is not None:
            result = each.remote.run(payload, golden, progress.advance)
        else:
            result = subprocess_worker.call(
                "slmkit.devices.bench_job:run_job",
                payload,
                lambda done, _: progress.advance(done),
                f"measures {each.name}",
            )
        each.results.append(result)
        if golden is not None and each.artifact is not None:
            _judge(each, each.artifact, golden, bounds, out)


def _judge(
    each: Candidate, artifact: Artifact, golden: Golden, bounds: Mapping[str, Bound], out: Path
) -> None:
    """Compare the tokens with the reference's."""
    runtime = each.results[-1]["runtime"]
    mode = next(mode for mode in artifact.modes if mode.name == each.payload["mode"])
    if each.remote is not None:
        got = outputs_in(out, golden, each.remote.place)
        each.cases = tuple(map(Case.model_validate, each.results[-1]["cases"]))
    else:
        found = range(len(golden.sequences))
        logits = [np.load(out / f"{at}.npy", mmap_mode="r") for at in found]
        got = outputs_of(logits, golden.outputs.columns)
        each.cases = cases_of(golden, logits)
    each.tokens = judged_tokens(artifact, mode, runtime, got, golden, bounds)


def _speed(results: Sequence[Mapping[str, Any]]) -> Speed:
    timings: list[Timing] = [timing_from_json(dict(each)) for each in results]
    return Speed(
        prompt=timings[0].prompt,
        decoded=timings[0].decoded,
        prefill=Samples.of([each.prefill for each in timings]),
        decode=Samples.of([each.decode for each in timings]),
        first_token_ms=Samples.of([each.prefill_s * 1000 for each in timings]),
    )
