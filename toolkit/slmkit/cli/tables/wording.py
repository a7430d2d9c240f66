"""A model's facts in words, as ``slmkit inspect`` tells them."""

from __future__ import annotations

from collections.abc import Sequence

from slmkit.models.spec import Spec


def feed_forward(spec: Spec) -> str:
    """Describe the feed-forward of the layers."""
    kind = spec.moe
    if kind is None:
        return f", feed-forward {spec.feed_forward}" if spec.feed_forward else ""
    shared = f", and one of {kind.shared} for every token" if kind.shared else ""
    chosen = f"{kind.routing.chosen} of {kind.experts} experts"
    return f", {chosen} of feed-forward {kind.feed_forward}{shared}"


def mixing(spec: Spec) -> dict[str, str]:
    """Describe how layers mix tokens (attention, convolution, scan): a line for each kind."""
    found = {}
    for kind in dict.fromkeys(spec.kinds):
        name, words = _mixed(spec, kind)
        layers = spec.layers_of(kind)
        some = f" (layer{'s' if len(layers) > 1 else ''} {runs(layers)})"
        found[name] = words + (some if len(layers) < spec.layers else "")
    return found


def context(spec: Spec) -> str:
    """Describe the longest sequence that the model was made for."""
    return str(spec.trained_context) if spec.layers_of("attention") else "any: no positions"


def runs(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 -> "0-2, 5"."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found)


def _mixed(spec: Spec, kind: str) -> tuple[str, str]:
    """Name one kind of layer, and describe its sizes."""
    if kind == "conv" and spec.convolution:
        return "convolution", f"over {spec.convolution.kernel} tokens, gated"
    if kind == "scan" and spec.state:
        state = spec.state
        about = f"{state.inner} channels in {state.heads} heads, state {state.state}"
        return "scan", f"{about}, convolution over {state.kernel} tokens"
    sizes = f"{spec.heads} query, {spec.kv_heads} kv, width {spec.head_width}"
    return "heads", sizes + _positions(spec)


def _positions(spec: Spec) -> str:
    """Name the layers that attend without rotating, if there are any."""
    if not spec.ropes:
        return ", no positions"
    nope = [layer for layer in spec.layers_of("attention") if layer in spec.nope_layers]
    return f", no positions in layer{'s' if nope[1:] else ''} {runs(nope)}" if nope else ""
