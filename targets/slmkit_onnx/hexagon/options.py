"""The recipe's ``artifacts: {hexagon: ...}``: keys, defaults, mistakes; what HTP cannot take."""

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


@dataclass(frozen=True)
class Options:
    """The options with their defaults."""

    soc: tuple[str, ...] = socs.DEFAULT
    range: str = "minmax"
    margin: float = 1.5
    tokens: int = 4096  # of calibration text, at most
    runtime: str = "slmkit"
    part_limit: int | None = None  # bytes of weights in one graph; None: PART_LIMIT, where it can
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
    """Options of a recipe in which ``problems`` found nothing."""
    known = dict(values)
    if "soc" in known:
        known["soc"] = tuple(known["soc"])
    return Options(**known)


def problems(model: Model, schemes: Mapping[str, Scheme], values: Mapping[str, Any]) -> list[str]:
    """Everything that HTP or this backend cannot do, one sentence each."""
    found = SUPPORT.problems(model, schemes, values)
    if SUPPORT.options["soc"].fits(values.get("soc", ())):
        found += [why for name in values.get("soc", ()) if (why := socs.refusal(name))]
    if model.states and values.get("runtime") == "genai":
        found.append(
            "artifacts.hexagon.runtime: genai's decoder-pipeline keeps keys and values alone, and "
            "this model has states; use runtime: slmkit"
        )
    if not found:
        found += _too_large(model, schemes, read(values))
    return found


def _too_large(model: Model, schemes: Mapping[str, Scheme], asked: Options) -> list[str]:
    sizes = sizes_of(model, schemes)
    limit = limit_of(asked, sizes)
    if asked.runtime == "genai" and sum(sizes) > limit:
        return [
            "artifacts.hexagon.runtime: genai takes a model in one part, and this one has "
            f"{sum(sizes)} bytes of weights; the limit of a graph is {limit}"
        ]
    return too_large(sizes, limit, "hexagon")


def limit_of(asked: Options, sizes: Sequence[int]) -> int:
    """Bytes of weights in one part: as asked, or no more than the compiler's memory likes, where a
    model can be cut so."""
    if asked.part_limit is not None:
        return asked.part_limit
    whole = asked.runtime == "genai"
    return GRAPH_LIMIT if whole else min(GRAPH_LIMIT, max(PART_LIMIT, *sizes))


def sizes_of(model: Model, schemes: Mapping[str, Scheme]) -> list[int]:
    """Bytes of each layer's weights on HTP, and of the head's."""
    return unit_bytes(model, schemes, matrix_bytes)
