"""The plan of an artifact, made before anything is written: windows, parts, embedding table."""

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
from slmkit_onnx.hexagon.partition import TABLE_LIMIT, first_and_last
from slmkit_onnx.hexagon.qnn.compile import KINDS

# State elements of all tokens of a chunk: with 393,216 (16 tokens of Mamba of 130 M) graphs compile
# for V73 to V81, with twice as many QNN finds no memory for them (error 1002).
MAX_SCAN_ELEMENTS = 400_000
# QNN (QAIRT 2.51) finds no memory (error 1002) for attention beside a float16 residual stream of
# exactly 32 tokens; of 16, 24, 30, 48, 64 and 128 it does, at widths up to 2048 and 8192.
REFUSED, FEWER = 32, 30
MAX_MAMBA_CHUNK = 32  # tokens: doubling them adds one more step of the prefix scan
MAX_EMULATED_PARAMETERS = 32_000_000  # beyond, a decode step on the emulator takes seconds


@dataclass(frozen=True)
class Plan:
    """Windows, parts and place of the embedding table."""

    options: options.Options
    windows: dict[str, Window]  # by kind
    sizes: Sequence[int]  # bytes of each layer's weights on HTP, and of the head's
    parts: Sequence[Part]
    emulated: bool  # the whole model runs on the emulator
    table_bytes: int  # of the embedding table as uint16

    @property
    def checks(self) -> list[Part]:
        """Parts of the graphs whose first and last layer run on the emulator, each by itself."""
        return first_and_last(self.parts, len(self.sizes) - 1)

    @property
    def table_in_graph(self) -> bool:
        """True if the embedding table lies in the graph, False if the host looks up embeddings."""
        own = self.options.runtime == "slmkit" and len(self.parts) == 1
        return own and self.table_bytes <= TABLE_LIMIT


def make_plan(job: Job) -> Plan:
    """Make the plan of a job, with its windows."""
    chunk = prefill_tokens(_max_chunk(job), job.context_length)
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
    """Make a plan from shapes and windows."""
    chosen, sizes = options.read(values), options.unit_sizes(model, schemes)
    return Plan(
        chosen,
        windows,
        sizes,
        plan_parts(sizes, options.part_limit_of(chosen, sizes)),
        model.parameters <= MAX_EMULATED_PARAMETERS,
        model.spec.vocabulary * model.spec.width * 2,
    )


def _max_chunk(job: Job) -> int:
    """Most tokens of a chunk; fewer for models with a state per channel (P = 1), as in Mamba."""
    sizes = [math.prod(each.shape) for each in job.model.states if each.shape[2:] == (1,)]
    limits = [min(MAX_MAMBA_CHUNK, MAX_SCAN_ELEMENTS // size) for size in sizes]
    most = min([job.prefill_chunk, job.context_length // 2, *limits])
    refused = most == REFUSED and job.model.attention_layers and options.is_wide(job.options)
    return FEWER if refused else most
