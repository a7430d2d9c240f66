"""The recipe's ``artifacts: {coreml: ...}``: keys, defaults, and what is not supported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmkit.backend.interface import Model
from slmkit.backend.partition import Part, plan_parts, too_large, unit_bytes
from slmkit.backend.support import Option, Support, one_of, refuse_asymmetric, whole_number
from slmkit.recipe.scheme import Scheme
from slmkit_coreml.contract import ALIGNMENT, CACHES, CHUNK_LIMIT, head_parts
from slmkit_coreml.layout import LAYOUTS, Layout
from slmkit_coreml.sizes import matrix_bytes

UNITS = ("cpu_and_ne", "cpu_and_gpu", "cpu_only", "all")  # coremltools' ComputeUnit, in lower case
SLOT_BYTES = 24  # per slot: at most three rows of int32 in each of two functions
TEXT = Option(lambda value: isinstance(value, str) and 0 < len(value) <= 500, "a short text")
SUPPORT = Support(
    "coreml",
    options={
        "layout": one_of(*LAYOUTS),
        "kv_cache": one_of(*CACHES),
        "self_contained": one_of(True, False),
        "require": one_of("ane"),
        "chunk_limit": whole_number(1, CHUNK_LIMIT, f"bytes, up to {CHUNK_LIMIT}"),
        "compute_units": one_of(*UNITS),
        "author": TEXT,
        "license": TEXT,
    },
    refusals=(
        refuse_asymmetric(
            "asymmetric codes are not written: use symmetric: true, or encoding: palette"
        ),
    ),
    whole_groups="use encoding: per-channel",
)


@dataclass(frozen=True)
class Form:
    """The form of the packages: layout, cache form and what else the options decide."""

    layout: Layout
    cache: str
    self_contained: bool = True
    require_ane: bool = False
    chunk_limit: int = CHUNK_LIMIT
    compute_units: str = "cpu_and_ne"

    @property
    def stateful(self) -> bool:
        """Whether the packages keep the memory of a sequence, as Core ML states."""
        return self.cache != "io"

    def slots(self, context: int) -> int:
        """Slots of the KV cache: the context, which a Core ML state rounds up to its alignment."""
        return -(-context // ALIGNMENT) * ALIGNMENT if self.stateful else context

    def logits(self, vocabulary: int) -> list[tuple[int, int]]:
        """First row and end of each output of logits, (first, end) by output."""
        return head_parts(vocabulary) if self.layout.name == "ane" else [(0, vocabulary)]


def read(options: Mapping[str, Any]) -> Form:
    """Read the options, with their defaults: ids in, logits out, and the package keeps the cache.

    For the Neural Engine no index is computed at run time, and an app that does the package's work
    itself keeps the cache too.
    """
    layout = LAYOUTS[options.get("layout", "ane")]
    self_contained = bool(options.get("self_contained", True))
    on_ane = layout.name == "ane"
    cache = ("state-blend" if self_contained else "io") if on_ane else "state-slice"
    return Form(
        layout,
        options.get("kv_cache", cache),
        self_contained,
        "require" in options,
        options.get("chunk_limit", CHUNK_LIMIT),
        options.get("compute_units", UNITS[0] if on_ane else UNITS[1]),
    )


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """The reasons why a model and recipe are refused, one sentence each; none if they are not."""
    found = SUPPORT.problems(model, schemes, options)
    if found:
        return found
    form = read(options)
    if form.require_ane and form.layout.name != "ane":
        found.append("artifacts.coreml.require: ane needs layout: ane")
    return found + too_large(unit_sizes(model, schemes, form), form.chunk_limit, "coreml")


def unit_sizes(model: Model, schemes: Mapping[str, Scheme], form: Form) -> list[int]:
    """Bytes of the weights of each layer and of the head; layer 0 includes an embedding table."""
    sizes = unit_bytes(model, schemes, matrix_bytes)
    for name in model.looked_up if form.self_contained else ():
        rows, width = model.shapes[name]
        sizes[0] += matrix_bytes(rows, width, schemes[name])
    return sizes


def plan_chunks(
    model: Model, schemes: Mapping[str, Scheme], form: Form, context: int
) -> Sequence[Part]:
    """Divide the model into packages of whole layers below the limit."""
    extra = table_bytes(model, context) if form.self_contained else 0
    return plan_parts(unit_sizes(model, schemes, form), form.chunk_limit - extra)


def table_bytes(model: Model, context: int) -> int:
    """Bytes of a self-contained package's tables: cos and sin in float32, slots of its masks."""
    pairs = sum(rope.width // 2 for rope in model.spec.ropes)
    return context * (8 * pairs + SLOT_BYTES)
