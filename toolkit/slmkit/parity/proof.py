"""Run the artifacts of a bundle in workers, side by side, and judge their answers."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from slmkit.backend.artifact import Artifact, Mode, artifact_to_json
from slmkit.backend.declaration import LOWERING
from slmkit.backend.registry import declaration_of, error_kinds
from slmkit.evaluation.divergence import Divergence
from slmkit.evaluation.gate import gate_mode
from slmkit.ops import Floats
from slmkit.parity.crossing import Crossing
from slmkit.parity.execute import CROSSING
from slmkit.parity.first_prompt import Reading, reading
from slmkit.parity.golden import WHOLE_CONTEXT, Golden, Ids, Prompt, outputs_of
from slmkit.parity.metrics import REFERENCE, ROUNDED, Comparison, judge
from slmkit.parity.references import MEMORY, Answers
from slmkit.recipe.bounds import Bound
from slmkit.system import subprocess_worker
from slmkit.system.jobs import Job, Limits, run_jobs
from slmkit.system.progress import Progress
from slmkit.system.workers.memory import given_memory, limited_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """An artifact's answers: tokens (those that it generated included) and logits."""

    sequences: list[Ids]
    logits: list[Floats]
    runtime: str
    crossing: Floats | None = None  # logits of the whole context's positions that count
    divergence: Divergence | None = None  # from the float model, on held-out text


@dataclass(frozen=True)
class Asked:
    """Sequences that an artifact is fed, each with the length of its prompt and the number of
    tokens to decode after it."""

    sequences: Sequence[Ids]
    prompt_lengths: Sequence[int]
    decode: Sequence[int]

    def first(self, prompts: int | None) -> Asked:
        """Keep only the first ``prompts`` sequences; None keeps all."""
        return Asked(self.sequences[:prompts], self.prompt_lengths[:prompts], self.decode[:prompts])


@dataclass(frozen=True)
class HeldOut:
    """Held-out text, with the float model's answers: every artifact reads it in one mode."""

    path: Path  # of ``slmkit.evaluation.answers_file``
    tokens: int
    chunk: int  # most tokens that are fed at once


@dataclass
class Proof:
    """Runs the artifacts of one bundle, each mode once, and keeps the answers."""

    folder: Path
    artifacts: Mapping[str, Artifact]
    bounds: Mapping[str, Bound]
    scratch: Path  # logits of the runs go here
    progress: Progress
    held_out: HeldOut | None = None
    crossing: Crossing | None = None  # read in the modes that show errors of lowering
    adapter: Path | None = None  # a file beside the artifact, with which it runs
    cache: Path | None = None  # of the build: what is compiled there is not compiled again
    limits: Limits = field(default_factory=Limits)  # of runs that go on side by side
    parameters: int = 0  # of the model, for the forecast of each run's memory
    seconds: Mapping[str, float] = field(default_factory=dict)  # of runs by label, by forecast
    runs: dict[tuple[str, str], Run] = field(default_factory=dict)  # by artifact and mode
    readings: dict[tuple[str, str], Reading] = field(default_factory=dict)  # the same

    @property
    def measured(self) -> list[tuple[str, str, str, Divergence]]:
        """Artifact, mode, runtime, and how far it is from the float model on the held-out text."""
        return [
            (artifact.name, mode.name, run.runtime, run.divergence)
            for artifact in self.artifacts.values()
            for mode in artifact.modes
            if (run := self.runs.get((artifact.name, mode.name))) and run.divergence is not None
        ]

    def readings_of(self, artifact: Artifact) -> tuple[Reading, ...]:
        """The readings of an artifact's modes that were compared, in their order."""
        found = ((artifact.name, mode.name) for mode in artifact.modes)
        return tuple(self.readings[each] for each in found if each in self.readings)

    def generate(
        self, artifact: Artifact, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> list[Ids]:
        """Let an artifact, in its first mode, continue the prompts greedily.

        ``progress``: of the job in which it runs; without one, it has all memory.
        """
        ids, decode = [prompt.ids for prompt in prompts], [prompt.decode for prompt in prompts]
        asked = Asked(ids, [len(each) for each in ids], decode)
        mode = artifact.modes[0]
        if progress is None:
            run = self._run_alone(artifact, mode, asked)
        else:
            run = self._run(artifact, mode, asked, progress)
        self.runs[artifact.name, mode.name] = run
        return run.sequences

    def run_all(
        self,
        sequences: Sequence[Ids],
        prompt_lengths: Sequence[int],
        beside: Callable[[Progress], T],
    ) -> T:
        """Feed known sequences to the artifacts in every mode that has not run; meanwhile do the
        work ``beside`` them in this process. Its result."""
        # It begins first: of the runs, the shortest are last, so that both cores end together.
        own: list[Job[Any]] = [Job(beside, MEMORY.of(self.parameters), math.inf)]
        runs = [
            job
            for artifact in self.artifacts.values()
            for job in self.runs_of(artifact, sequences, prompt_lengths)
        ]
        result, *_ = run_jobs(own + runs, self.limits, self.progress)
        kept: T = result
        return kept

    def runs_of(
        self, artifact: Artifact, sequences: Sequence[Ids], prompt_lengths: Sequence[int]
    ) -> list[Job[None]]:
        """Jobs that feed known sequences to an artifact, one for each mode that has not run."""
        asked = Asked(sequences, prompt_lengths, [0] * len(sequences))

        def run(mode: Mode, progress: Progress) -> None:
            found = self._run(artifact, mode, asked.first(mode.prompts), progress)
            self.runs[artifact.name, mode.name] = found

        return [
            Job(
                partial(run, mode),
                declaration_of(artifact.name).running.of(self.parameters),
                self.seconds.get(run_label(artifact, mode), 0.0),
            )
            for mode in artifact.modes
            if (artifact.name, mode.name) not in self.runs
        ]

    def has_run(self, artifact: Artifact) -> bool:
        """Whether an artifact has answered in every mode."""
        return all((artifact.name, mode.name) in self.runs for mode in artifact.modes)

    def compare(self, answers: Answers, names: Sequence[str]) -> list[Comparison]:
        """Some artifacts in every mode, against the reference's answers or an earlier mode.

        Modes that have not run yet do so now. Comparisons without answers are left out.
        """
        found: list[Comparison] = []
        golden, kinds = answers.exact, error_kinds(self.artifacts)
        for artifact in (self.artifacts[name] for name in names):
            known = {REFERENCE: golden}
            if answers.rounded is not None:
                known[ROUNDED] = answers.rounded
            for mode in artifact.modes:
                wanted, run = golden.first(mode.prompts), self._answers(artifact, mode, golden)
                got = outputs_of(run.logits, golden.outputs.columns)
                about = artifact.name, mode.name
                self.readings[about] = reading(*about, REFERENCE, wanted, got)
                if any(mode.name in each.bounds for each in artifact.modes):
                    known[mode.name] = replace(wanted, outputs=got)
                found += [
                    judge(
                        artifact.name,
                        mode,
                        against,
                        run.runtime,
                        got,
                        known[against].first(len(wanted.sequences)),
                        kinds,
                        self.bounds,
                    )
                    for against in mode.bounds
                    if against in known
                ]
                if golden.crossed is not None and run.crossing is not None:
                    got = outputs_of([run.crossing], golden.crossed.outputs.columns)
                    long, answer = whole_context(mode), golden.crossed.as_golden()
                    side = artifact.name, long, REFERENCE, run.runtime
                    found.append(judge(*side, got, answer, kinds, self.bounds))
        return found

    def _answers(self, artifact: Artifact, mode: Mode, golden: Golden) -> Run:
        key = artifact.name, mode.name
        if key not in self.runs:
            asked = Asked(golden.sequences, golden.prompt_lengths, [0] * len(golden.sequences))
            self.runs[key] = self._run_alone(artifact, mode, asked.first(mode.prompts))
        return self.runs[key]

    def _run_alone(self, artifact: Artifact, mode: Mode, asked: Asked) -> Run:
        with given_memory(self.limits.budget), limited_memory(self.limits.memory):
            return self._run(artifact, mode, asked, self.progress)

    def _run(self, artifact: Artifact, mode: Mode, asked: Asked, progress: Progress) -> Run:
        out = Path(tempfile.mkdtemp(prefix="logits-", dir=self.scratch))
        payload: dict[str, Any] = {
            "artifact": artifact_to_json(artifact),
            "folder": str(self.folder / artifact.name),
            "mode": mode.name,
            "out": str(out),
            "sequences": [ids.tolist() for ids in asked.sequences],
            "prompt_lengths": list(asked.prompt_lengths),
            "decode": list(asked.decode),
        }
        if self.adapter is not None:
            payload["adapter"] = str(self.adapter)
        if self.cache is not None:
            payload["cache"] = str(self.cache)
        crossing = self.crossing if crosses(mode) else None
        if crossing is not None:
            payload["crossing"] = crossing.to_json()
        tokens, held_out = sum(map(len, asked.sequences)) + sum(asked.decode), self.held_out
        if held_out is not None and mode == gate_mode(artifact):
            payload |= {"held_out": str(held_out.path), "chunk": held_out.chunk}
            tokens += held_out.tokens
        tokens += len(crossing.ids) if crossing is not None else 0
        progress.stage(run_label(artifact, mode), tokens)
        result = subprocess_worker.call(
            "slmkit.parity.execute:run_job",
            payload,
            lambda done, _: progress.advance(done),
            f"runs the artifact {artifact.name}",
        )
        sequences = [np.asarray(ids) for ids in result["sequences"]]
        divergence = Divergence(**result["divergence"]) if "divergence" in result else None
        logits = [np.load(out / f"{at}.npy", mmap_mode="r") for at in range(len(sequences))]
        crossed = np.load(out / CROSSING) if crossing is not None else None
        return Run(sequences, logits, result["runtime"], crossed, divergence)


def run_label(artifact: Artifact, mode: Mode) -> str:
    """The name of a run's stage."""
    return f"run {artifact.name}, {mode.name}"


def whole_context(mode: Mode) -> Mode:
    """The mode under the name of its comparison over the whole context."""
    return replace(mode, name=f"{mode.name}, {WHOLE_CONTEXT}")


def crosses(mode: Mode) -> bool:
    """Whether a mode reads a text as long as the context: those that show errors of lowering,
    where the runtime is not too slow for all prompts."""
    return mode.bounds.get(REFERENCE) == LOWERING and mode.prompts is None


def run_labels(artifacts: Iterable[Artifact]) -> list[str]:
    """The names of all runs of a proof."""
    return [run_label(artifact, mode) for artifact in artifacts for mode in artifact.modes]
