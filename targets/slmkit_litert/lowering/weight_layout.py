"""The weights of a graph template: the checkpoint's, padded, in parts, and of outlier channels.

A tied head has a linear of its own for outlier channels (``slmkit.activations.outliers``): XNNPACK
rounds each token of a linear's input to 8 bits with one scale. The outlier channels leave that
input by a mask, and enter a narrow linear by a selection: a float32 linear of zeros and ones, as
XNNPACK has no kernel that gathers channels.

The input of a wide down projection enters several linears, each with some of its channels, for the
same reason (``slmkit.activations.input_parts``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from slmkit.backend.interface import Model, input_parts, outlier_counts
from slmkit.quant.codes import padded_width
from slmkit.recipe.scheme import Scheme

# Endings of the names of weights that the checkpoint does not have; of a head (V, D), K channels
COLUMNS = ".outliers.weight"  # (V, K) the head's codes of these channels
SELECTION = ".outliers.selection"  # (K, D) 1 where an outlier lies
MASK = ".outliers.mask"  # (D,) 0 where one lies
PART = re.compile(r"(.+)\.inputs\.(\d+)\.weight")  # (N, K / parts) of a linear in parts

Shape = tuple[int, ...]


def matrix_of(tensor: str) -> str:
    """The name of the matrix whose codes a weight of the template holds."""
    of_part = PART.fullmatch(tensor)
    return of_part[1] if of_part else tensor.removesuffix(COLUMNS).removesuffix(".weight")


def part_of(name: str, number: int) -> str:
    """The tensor of a linear's part, from 0 on."""
    return f"{name}.inputs.{number}.weight"


@dataclass(frozen=True)
class WeightLayout:
    """The facts behind the template's weights besides the model, by the name of a matrix."""

    padded: Mapping[str, int]  # inputs of a linear whose groups do not divide them, padded
    outliers: Mapping[str, int]  # outlier channels of a head
    parts: Mapping[str, int]  # of a linear's input


def weight_layout(model: Model, schemes: Mapping[str, Scheme]) -> WeightLayout:
    """The layout for codes of these ``schemes``."""
    padded = {}
    for name in sorted(model.multiplied - model.looked_up):
        if schemes[name].group_size:
            width = model.shapes[name][1]
            whole = padded_width(schemes[name], width)
            if whole != width:
                padded[name] = whole
    return WeightLayout(padded, outlier_counts(model, schemes), input_parts(model, schemes))


def weight_shapes(model: Model, layout: WeightLayout) -> dict[str, Shape]:
    """The template's shape of every weight by tensor name, in a fixed order."""
    shapes: dict[str, Shape] = {}
    for name, shape in model.shapes.items():
        parts = layout.parts.get(name, 1)
        if parts > 1:
            part = (shape[0], shape[1] // parts)
            shapes |= {part_of(name, number): part for number in range(parts)}
        elif len(shape) == 2:
            shapes[f"{name}.weight"] = (shape[0], layout.padded.get(name, shape[1]))
        else:
            shapes[name] = shape
    for name, count in layout.outliers.items():
        rows, width = model.shapes[name]
        shapes[f"{name}{COLUMNS}"] = (rows, count)
        shapes[f"{name}{SELECTION}"] = (count, width)
        shapes[f"{name}{MASK}"] = (width,)
    return shapes
