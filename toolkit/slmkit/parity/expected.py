"""The references' answers in a build: each is computed once, in jobs beside the artifacts' runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from slmkit.checkpoint.folder import Checkpoint
from slmkit.parity.crossing import Crossing
from slmkit.parity.first_prompt import Stream
from slmkit.parity.golden import Golden, Ids, Outputs, Prompt
from slmkit.parity.references import (
    MEMORY,
    Answers,
    exact_answers,
    float_outputs,
    rounded_answers,
)
from slmkit.planning.plan import Encoding
from slmkit.quant.codes import CodesFile
from slmkit.system.jobs import Job
from slmkit.system.progress import Progress

FLOATS = "floats"
Part = Callable[[Progress], None]


@dataclass
class Expected:
    """The answers on the float weights, and on the codes of each encoding."""

    checkpoint: Checkpoint
    codes: Mapping[Encoding, CodesFile]
    prompts: Sequence[Prompt]
    crossing: Crossing | None
    parameters: int
    floats: Outputs = field(init=False)  # from the end of the first job on
    float_stream: Stream = field(default_factory=dict)
    exact: dict[Encoding, Golden] = field(default_factory=dict)
    rounded: dict[Encoding, Golden] = field(default_factory=dict)
    streams: dict[Encoding, Stream] = field(default_factory=dict)
    _begun: set[object] = field(default_factory=set)

    def answers(self, encoding: Encoding) -> Answers:
        """Those on an encoding's codes, after their jobs have ended."""
        return Answers(self.exact[encoding], self.rounded.get(encoding))

    def jobs(self, encoding: Encoding, sequences: Sequence[Ids], rounded: bool) -> list[Job[None]]:
        """A job of what an encoding needs and no job has begun: every run waits for its answers, so
        it goes before them. ``rounded``: with the reference of 8-bit activations."""
        parts: list[Part] = []
        if self._is_new(FLOATS):
            parts.append(partial(self._compute_floats, sequences))
        if self._is_new(encoding):
            parts.append(partial(self._compute_exact, encoding, sequences))
        if rounded and self._is_new((encoding, rounded)):
            parts.append(partial(self._compute_rounded, encoding, sequences))
        if not parts:
            return []
        return [Job(partial(_one_by_one, parts), MEMORY.of(self.parameters), math.inf)]

    def _is_new(self, part: object) -> bool:
        new = part not in self._begun
        self._begun.add(part)
        return new

    def _compute_floats(self, sequences: Sequence[Ids], progress: Progress) -> None:
        self.floats = float_outputs(self.checkpoint, sequences, progress, self.float_stream)

    def _compute_exact(
        self, encoding: Encoding, sequences: Sequence[Ids], progress: Progress
    ) -> None:
        stream = self.streams[encoding] = {}
        about = self.codes[encoding], self.checkpoint.spec, self.prompts, sequences, progress
        self.exact[encoding] = exact_answers(*about, self.crossing, stream)

    def _compute_rounded(
        self, encoding: Encoding, sequences: Sequence[Ids], progress: Progress
    ) -> None:
        about = self.codes[encoding], self.checkpoint.spec, self.prompts, sequences, progress
        self.rounded[encoding] = rounded_answers(*about)


def _one_by_one(parts: Sequence[Part], progress: Progress) -> None:
    for part in parts:
        part(progress)
