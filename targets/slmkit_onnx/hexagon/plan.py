"""What is decided before anything is emitted: windows, parts, where the embedding lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmkit.host import Window
from slmkit.parts import Part, plan_parts
from slmkit.quant.codes import Scheme
from slmkit.target import Job, Model
from slmkit_onnx.hexagon import options
from slmkit_onnx.hexagon.compile import KINDS
from slmkit_onnx.hexagon.parts import TABLE_LIMIT

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
    chunk = max(2, min(job.prefill_chunk, job.context_length // 2))
    windows = {
        kind: Window(tokens, job.context_length - tokens)
        for kind, tokens in zip(KINDS, (chunk, 1), strict=True)
    }
    return plan_of(job.model, job.codes.schemes, job.options, windows)


def plan_of(
    model: Model, schemes: Mapping[str, Scheme], values: Mapping[str, Any],
    windows: dict[str, Window],
) -> Plan:  # fmt: skip
    """Parts, and the embedding's place, from shapes alone."""
    chosen, sizes = options.read(values), options.sizes_of(model, schemes)
    return Plan(
        chosen,
        windows,
        sizes,
        plan_parts(sizes, chosen.part_limit),
        model.parameters <= EMULATED,
        model.spec.vocabulary * model.spec.width * 2,
    )
