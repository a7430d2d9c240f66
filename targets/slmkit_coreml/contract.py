"""What passes between the host (the app) and the package: names, shapes, who keeps the cache.

Two functions share every name and weight: ``prefill`` reads T tokens, ``decode`` one, both after a
past of S - T, S the context length. All is float16, channels before tokens (BC1S). The host gives

    embeds [1, D, 1, T]                 rows of the embedding file
    cos, sin [1, 1, d/2, T]             at the tokens' positions
    mask [1, S, 1, T]                   key-major: 0 where a token may look, HIDDEN elsewhere
    past_keys, past_values [L, G * d, 1, S - T]

and takes new_keys, new_values [L, G * d, 1, T], which it appends, and logits in parts of at most
HEAD_ROWS rows: logits_N [1, rows, 1, T]. Among the S keys the past comes first. Keys come out
multiplied by a constant; only this package reads them.

That is the cache form ``io``. In the two others the package keeps the cache itself, in the Core ML
states key_cache and value_cache [L, G * d, 1, S], and slot j holds position j. Under
``state-slice`` the host gives position [1] int32, where the tokens are written. Under
``state-blend`` it gives keep [1, 1, 1, S], 0 in the slots of the new tokens and 1 elsewhere, and
place [1, T, 1, S], 1 where token t goes to slot s: no index is computed at run time.
"""

from __future__ import annotations

HIDDEN = -40000.0  # finite in float16 with any score beside it: the Neural Engine dislikes -inf
CACHES = ("io", "state-slice", "state-blend")
ALIGNMENT = 32  # numbers of float16: the last dimension of a state must be a multiple
HEAD_ROWS = 16384  # no dimension of the Neural Engine is longer


def mask_name(window: int | None) -> str:
    """The mask input of layers with this sliding window."""
    return "mask" if window is None else f"mask_{window}"


def head_parts(rows: int) -> list[tuple[int, int]]:
    """First row and end of each part of a long output."""
    return [(at, min(at + HEAD_ROWS, rows)) for at in range(0, rows, HEAD_ROWS)]
