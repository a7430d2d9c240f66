"""What is decided before anything is emitted: windows, parts, where the embedding lies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmkit.backend.interface import Job, Model
from slmkit.backend.partition import Part, plan_parts
from slmkit.backend.static_runner import Window, prefill_tokens
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.hexagon import options
from slmkit_onnx.hexagon.partition import TABLE_LIMIT
from slmkit_onnx.hexagon.qnn.compile import KINDS

# Numbers that a scan holds for all tokens of a chunk: with 393,216 (16 tokens of Mamba of 130 M)
# graphs compile for V73 to V81, with twice as many QNN finds no memory for them (error 1002).
SCANNED = 400_000
LONGEST = 32  # tokens of a chunk of Mamba, at most: twice as many are one more joining of them all
EMULATED = 32_000_000  # parameters: beyond, a decode step on the emulator takes seconds


@dataclass(frozen=True)
class Plan:
    """What is decided before anything is emitted."""

    options: options.Options
    windows: dict[str, Window]  # by kind
    sizes: Sequence[int]  # bytes of each layer's weights on HTP, and of the head's
    parts: Sequence[Part]
    emulated: bool  # the whole model runs on the emulator
    table_bytes: int  # of the embedding, as uint16

    @property
    def embedded(self) -> bool:
        """Whether the embedding table lies in the graph."""
        own = self.options.runtime == "slmkit" and len(self.parts) == 1
        return own and self.table_bytes <= TABLE_LIMIT


def make_plan(job: Job) -> Plan:
    """The plan of a job: what shapes decide, and its windows."""
    chunk = prefill_tokens(_most(job), job.context_length)
    windows = {
        kind: Window(tokens, job.context_length - tokens)
        for kind, tokens in zip(KINDS, (chunk, 1), strict=True)
    }
    return plan_of(job.model, job.codes.schemes, job.options, windows)


def plan_of(
    model: Model,
    schemes: Mapping[str, Scheme],
    values: Mapping[str, Any],
    windows: dict[str, Window],
) -> Plan:
    """Parts, and the embedding's place, from shapes alone."""
    chosen, sizes = options.read(values), options.sizes_of(model, schemes)
    return Plan(
        chosen,
        windows,
        sizes,
        plan_parts(sizes, options.limit_of(chosen, sizes)),
        model.parameters <= EMULATED,
        model.spec.vocabulary * model.spec.width * 2,
    )


def _most(job: Job) -> int:
    """Tokens of a chunk: fewer where every channel has a state of its own (P is 1)."""
    sizes = [math.prod(each.shape) for each in job.model.states if each.shape[2:] == (1,)]
    return min([job.prefill_chunk, *(min(LONGEST, SCANNED // size) for size in sizes)])
