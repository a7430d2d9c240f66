"""Parse the weight names of checkpoints."""

from __future__ import annotations


def layer_of(weight: str) -> int | None:
    """The layer number in a name such as ``model.layers.3.mlp.up_proj``; None outside layers."""
    _, _, after = weight.partition(".layers.")
    number = after.partition(".")[0]
    return int(number) if number.isdigit() else None
