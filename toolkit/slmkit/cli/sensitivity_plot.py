"""The picture of sensitivities: a bar for each layer, in parts for each kind of linear."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slmkit.errors import UsageError
from slmkit.system import plotting
from slmkit.workflows.sensitivity import Sensitivity

ENDINGS = (".svg", ".png")


def check_plot(path: Path) -> None:
    """Raise UsageError for a file that is no picture."""
    if path.suffix not in ENDINGS:
        raise UsageError(
            f"--plot {path}: not a picture's name", f"end it in {' or '.join(ENDINGS)}"
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no such folder", "make it first")


def save_plot(found: Sequence[Sensitivity], path: Path) -> None:
    """Write the picture."""
    plotting.imported()
    from matplotlib.figure import Figure

    layers = sorted({-1 if each.layer is None else each.layer for each in found})
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    below = dict.fromkeys(layers, 0.0)
    for kind in dict.fromkeys(each.kind for each in found):
        of_layer = dict.fromkeys(layers, 0.0)
        for each in found:
            if each.kind == kind:
                of_layer[-1 if each.layer is None else each.layer] += each.kl
        axes.bar(layers, list(of_layer.values()), bottom=list(below.values()), label=kind)
        below = {layer: below[layer] + of_layer[layer] for layer in layers}
    axes.set(
        xlabel="layer",
        ylabel="KL, nats, of each linear by itself",
        title="What few bits cost",
    )
    axes.legend()
    figure.savefig(path)
