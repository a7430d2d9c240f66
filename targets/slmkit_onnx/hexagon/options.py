"""The recipe's ``artifacts: {hexagon: ...}``: keys, defaults, and what HTP does not support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmkit.backend.interface import Model
from slmkit.backend.partition import too_large, unit_bytes
from slmkit.backend.support import (
    Option,
    Refusal,
    Support,
    one_of,
    refuse_asymmetric,
    refuse_float16,
    refuse_groups,
    refuse_palettes,
    whole_number,
)
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.hexagon.calibrate.histogram import METHODS
from slmkit_onnx.hexagon.contract import CONTRACTS
from slmkit_onnx.hexagon.partition import GRAPH_LIMIT, PART_LIMIT, matrix_bytes
from slmkit_onnx.hexagon.qnn import socs

GENAI_MARGIN = 1.5  # its KV cache of 8 bits has no room


@dataclass(frozen=True)
class Options:
    """The options and their defaults."""

    soc: tuple[str, ...] = socs.DEFAULT
    range: str = "minmax"
    margin: float = 2.0  # of ranges; for genai GENAI_MARGIN
    residual: str = "wide"  # or int16, for chips without float16
    tokens: int = 8192  # of calibration text, at most
    runtime: str = "slmkit"
    part_limit: int | None = None  # bytes of weights in one graph; None: see ``part_limit_of``
    timeout: int = 3600  # seconds of one compilation


SUPPORT = Support(
    "hexagon",
    options={
        "soc": Option(lambda value: isinstance(value, list | tuple), "a list of chips"),
        "range": one_of(*METHODS),
        "margin": Option(
            lambda value: type(value) in (int, float) and 1 <= value <= 4, "a number from 1 to 4"
        ),
        "tokens": whole_number(1, 10**6, "how many tokens of text to read, 1 to 1000000"),
        "residual": one_of("wide", "int16"),
        "runtime": one_of(*CONTRACTS),
        "part_limit": whole_number(1, GRAPH_LIMIT, f"bytes, at most {GRAPH_LIMIT}"),
        "timeout": whole_number(1, 10**6, "seconds, at least 1"),
    },
    refusals=(
        refuse_float16("float16 weights would make every product float16: give it 4 or 8 bits"),
        refuse_palettes("palettes have no form on HTP: name them under artifacts.coreml.weights"),
        refuse_asymmetric("asymmetric codes are not exact on HTP: use symmetric: true"),
        refuse_groups(8, "8-bit groups have no form on HTP: use encoding: per-channel"),
        Refusal(
            lambda scheme: scheme.encoding == "group-wise" and scheme.scales != "two-level",
            "free group scales are computed in float16 on HTP: use scales: two-level",
        ),
    ),
    any_table=True,
)


def read(values: Mapping[str, Any]) -> Options:
    """Read the options of a recipe; ``problems`` must have found none."""
    fields = dict(values)
    if "soc" in fields:
        fields["soc"] = tuple(fields["soc"])
    if fields.get("runtime") == "genai":
        fields.setdefault("margin", GENAI_MARGIN)
    return Options(**fields)


def is_wide(values: Mapping[str, Any]) -> bool:
    """Whether the residual stream is float16."""
    return bool(values.get("residual", Options.residual) == "wide")


def problems(model: Model, schemes: Mapping[str, Scheme], values: Mapping[str, Any]) -> list[str]:
    """The reasons why a model and recipe are refused, one sentence each; none if they are not."""
    found = SUPPORT.problems(model, schemes, values)
    if SUPPORT.options["soc"].fits(values.get("soc", ())):
        needed = _float16_parts(model, values)
        found += [why for name in values.get("soc", ()) if (why := socs.refusal(name, needed))]
    if model.states and values.get("runtime") == "genai":
        found.append(
            "artifacts.hexagon.runtime: genai's decoder-pipeline keeps keys and values alone, and "
            "this model has states; use runtime: slmkit"
        )
    if not found:
        found += _too_large(model, schemes, read(values))
    return found


def _float16_parts(model: Model, values: Mapping[str, Any]) -> str:
    """The parts of the graphs that are float16, in words; empty if nothing is."""
    if any(state.kind == "scan" for state in model.states):
        return "a scan's state is float16"
    if is_wide(values):
        return (
            "the residual stream is float16: build for it alone with artifacts.hexagon.residual: "
            "int16, which loses much of models with massive activations"
        )
    return ""


def _too_large(model: Model, schemes: Mapping[str, Scheme], chosen: Options) -> list[str]:
    """The reason why a model does not fit into HTP's graphs, if it does not."""
    sizes = unit_sizes(model, schemes)
    limit = part_limit_of(chosen, sizes)
    if chosen.runtime == "genai" and sum(sizes) > limit:
        return [
            "artifacts.hexagon.runtime: genai takes a model in one part, and this one has "
            f"{sum(sizes)} bytes of weights; the limit of a graph is {limit}"
        ]
    return too_large(sizes, chosen.part_limit or GRAPH_LIMIT, "hexagon")


def part_limit_of(chosen: Options, sizes: Sequence[int]) -> int:
    """Most bytes of weights in one part of layers; ``sizes``: bytes of each layer and of the head,
    which is a part of its own where the model has several.

    It is the option, or else PART_LIMIT, which bounds the compiler's memory, unless one layer is
    larger. genai's form has a single part: only the limit of a graph applies.
    """
    if chosen.part_limit is not None:
        return chosen.part_limit
    if chosen.runtime == "genai":
        return GRAPH_LIMIT
    return min(GRAPH_LIMIT, max(PART_LIMIT, *sizes[:-1]))


def unit_sizes(model: Model, schemes: Mapping[str, Scheme]) -> list[int]:
    """Bytes of the weights of each layer, and of the head, on HTP."""
    return unit_bytes(model, schemes, matrix_bytes)
