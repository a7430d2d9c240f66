"""What is decided before anything is emitted: windows, parts, where the embedding lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmkit.host import Window
from slmkit.parts import Part, plan_parts
from slmkit.target import Job
from slmkit_onnx.hexagon import options
from slmkit_onnx.hexagon.compile import KINDS
from slmkit_onnx.hexagon.parts import TABLE_LIMIT

# Tokens of a chunk where a scan holds a state of N * D numbers for each: of Mamba's 130 M, 32 are
# 1.6 MB of float16, and several such tensors must fit into the 8 MB beside HTP's vector units.
SCANNED = 32
EMULATED = 32_000_000  # parameters: beyond, a decode step on the emulator takes seconds


@dataclass(frozen=True)
class Plan:
    """What is decided before anything is emitted."""

    options: options.Options
    windows: dict[str, Window]  # by kind
    parts: Sequence[Part]
    emulated: bool  # the whole model runs on the emulator
    table_bytes: int  # of the embedding, as uint16

    @property
    def embedded(self) -> bool:
        """Whether the embedding table lies in the graph."""
        own = self.options.runtime == "slmkit" and len(self.parts) == 1
        return own and self.table_bytes <= TABLE_LIMIT


def make_plan(job: Job) -> Plan:
    """Windows and parts, from sizes alone."""
    chosen = options.read(job.options)
    chunk = max(2, min(_most(job), job.context_length // 2))
    sizes = options.sizes_of(job.model, job.codes.schemes)
    return Plan(
        chosen,
        {kind: Window(tokens, job.context_length - tokens)
         for kind, tokens in zip(KINDS, (chunk, 1), strict=True)},
        plan_parts(sizes, chosen.part_limit),
        job.model.parameters <= EMULATED,
        job.spec.vocabulary * job.spec.width * 2,
    )  # fmt: skip


def _most(job: Job) -> int:
    """Tokens of a chunk: fewer where every channel has a state of its own (P is 1)."""
    by_number = any(each.kind == "scan" and each.shape[2] == 1 for each in job.model.states)
    return min(job.prefill_chunk, SCANNED) if by_number else job.prefill_chunk
