"""What passes between the host (the app) and the package: names, shapes, who keeps the cache.

Two functions share every name and weight: ``prefill`` reads T tokens, ``decode`` one, both after a
past of S - T, S the context length. Numbers are float16. The host gives

    embeds                  the embedding file's rows of the tokens, (T, D)
    cos, sin                at the tokens' positions, (T, d/2)
    mask                    0 where a token may look, HIDDEN elsewhere, (T, S)
    past_keys, past_values  the cache of each layer, oldest first

and takes new_keys, new_values, which it appends, and logits: in parts of at most HEAD_ROWS rows,
logits_0, logits_1, ... Among the S keys the past comes first. Keys may come out multiplied by a
constant; only this package reads them. How each of these lies in memory is the layout's
(``layout.py``), and the manifest lists every shape.

That is the cache form ``io``. In the two others the package keeps the cache itself, in the Core ML
states key_cache and value_cache, and slot j holds position j. Under ``state-slice`` the host gives
position [1] int32, where the tokens are written. Under ``state-blend`` it gives keep (S), 0 in the
slots of the new tokens and 1 elsewhere, and place (T, S), 1 where token t goes to slot s: no index
is computed at run time.

A ``self_contained`` package takes ids [1, T] and position [1], both int32, and looks up, rotates
and masks by itself.

A model above the chunk limit lies in several packages, run one after the other: ``hidden`` leaves
one and enters the next; each has the cache of its own layers.
"""

from __future__ import annotations

from slmkit.backend.interface import State

HIDDEN = -40000.0  # finite in float16 with any score beside it: the Neural Engine dislikes -inf
CACHES = ("io", "state-slice", "state-blend")
ALIGNMENT = 32  # numbers of float16: the last dimension of a state must be a multiple
HEAD_ROWS = 16384  # no dimension of the Neural Engine is longer
CHUNK_LIMIT = 950_000_000  # bytes of weights in one package: 1 GB fails to load on iPhones (ANEMLL)


def state_name(kind: str, layer: int) -> str:
    """A state, after ``past_`` as an input and ``new_`` as an output."""
    return f"{kind}_{layer}"


def state_shape(state: State) -> tuple[int, ...]:
    """Shape of a state's tensor: conv [1, D, 1, K - 1]; scan [1, H, N, P]."""
    first, *rest = state.shape
    return (1, first, 1, *rest) if state.kind == "conv" else (1, first, *rest)


def mask_name(window: int | None) -> str:
    """The mask input of layers with this sliding window."""
    return "mask" if window is None else f"mask_{window}"


def head_parts(rows: int) -> list[tuple[int, int]]:
    """First row and end of each part of a long output."""
    return [(at, min(at + HEAD_ROWS, rows)) for at in range(0, rows, HEAD_ROWS)]
