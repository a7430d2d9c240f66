"""Largest activations of each layer, as the checkpoint is and with the factors of a recipe.

python tests/benchmarks/activation_maxima.py MODEL [--recipe int4]

A row for each layer, over 2,048 tokens of calibration text: the residual stream that its last norm
reads (all tokens), what q, k and v, o, gate and up, and down read without first tokens, before and
after the recipe's factors, and what down reads at the first token.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from slmkit.activations.observe import Activations, Sizes, calibration_runs, observe
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.planning.calibration import calibration_texts
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.prepare import prepare
from slmkit.recipe.recipe import load_recipe
from slmkit.system.cache import Cache, default_folder
from slmkit.system.progress import Silent

READ_BY = ("q_proj", "o_proj", "gate_proj", "down_proj")


def largest(sizes: Sizes, layer: int, part: str) -> float:
    """The largest number of a layer's weights whose names end so; NaN where there are none."""
    found = [
        float(size.max())
        for name, size in sizes.items()
        if f".layers.{layer}." in name and name.endswith(part)
    ]
    return max(found, default=float("nan"))


def row(layer: int, before: Activations, after: Activations) -> list[str]:
    """The cells of a layer."""
    stream = largest(before.stream, layer, "norm"), largest(after.stream, layer, "norm")
    cells = [str(layer), " -> ".join(f"{size:,.0f}" for size in stream)]
    for part in READ_BY:
        pair = largest(before.inputs, layer, part), largest(after.inputs, layer, part)
        cells.append(" -> ".join(f"{size:.1f}" for size in pair))
    pair = largest(before.peaks, layer, "down_proj"), largest(after.peaks, layer, "down_proj")
    return [*cells, " -> ".join(f"{size:,.0f}" for size in pair)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--recipe", default="int4")
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    checkpoint, recipe = open_checkpoint(asked.model), load_recipe(asked.recipe)
    runs = calibration_runs(calibration_texts(checkpoint, None))
    prepared = prepare(checkpoint, recipe, runs, Cache(asked.cache or default_folder()), Silent())
    weights = prepared.weights(checkpoint, matrix_schemes(checkpoint.model, recipe))
    after = observe(weights, checkpoint.model, prepared.runs, lambda done: None)
    titles = ("q, k, v", "o", "gate, up", "down", "down, first token")
    table = Table("layer", "stream", *titles)
    for layer in range(checkpoint.spec.layers):
        table.add_row(*row(layer, prepared.activations, after))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
