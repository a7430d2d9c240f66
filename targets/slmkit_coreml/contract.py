"""The contract between the host (the app) and the package: inputs, outputs, KV cache and states.

Two functions share every name and weight: ``prefill`` reads T tokens, ``decode`` one, both after a
past of S - T, S the context length. Numbers are float16. The inputs are

    embeds                  the embedding file's rows of the tokens, (T, D)
    cos, sin                at the tokens' positions, (T, d/2)
    mask                    0 where a token may look, HIDDEN elsewhere, (T, S)
    past_keys, past_values  the cache of each layer, oldest first

and the outputs new_keys and new_values, which the host appends to the past, and logits: parts of at
most HEAD_ROWS columns, logits_0, logits_1, ... In the S keys of attention the past precedes the new
tokens. Keys may be multiplied by a constant; only this package reads them. The layout
(``layout.py``) defines the memory order of each tensor, and the manifest lists every shape.

That is the cache form ``io``. In the two others the package keeps the cache itself, in the Core ML
states key_cache and value_cache, and slot j holds position j. Under ``state-slice`` the input
position [1] int32 is the slot where the tokens are written. Under ``state-blend`` there are the
inputs keep (S), 0 in the slots of the new tokens and 1 elsewhere, and place (T, S), 1 where token t
goes to slot s: no index is computed at run time.

Then a layer that convolves or scans has a state too, conv_I_cache or scan_I_cache, whose numbers
lie in rows of ALIGNMENT. Slots are rounded up to a multiple of ALIGNMENT.

A ``self_contained`` package, the default, has the inputs ids [1, T] and position [1], both int32,
and computes embeddings, cos, sin and mask itself.

A model above the chunk limit is divided into several packages, run one after another: the output
hidden_out of one is the input hidden of the next; each has the cache of its own layers.
"""

from __future__ import annotations

import math

from slmkit.backend.interface import State

HIDDEN = -40000.0  # finite in float16, plus any score: no -inf on the Neural Engine
CACHES = ("io", "state-slice", "state-blend")
ALIGNMENT = 32  # float16 elements: the last dimension of a Core ML state must be a multiple
HEAD_ROWS = 16384  # longest dimension on the Neural Engine
CHUNK_LIMIT = 950_000_000  # bytes of weights in one package: 1 GB fails to load on iPhones (ANEMLL)


def state_name(kind: str, layer: int) -> str:
    """Name of a recurrent state; the input has the prefix ``past_``, the output ``new_``."""
    return f"{kind}_{layer}"


def state_shape(state: State) -> tuple[int, ...]:
    """Shape of a state's tensor: conv [1, D, 1, K - 1]; scan [1, H, N, P]."""
    first, *rest = state.shape
    return (1, first, 1, *rest) if state.kind == "conv" else (1, first, *rest)


def kept_shape(state: State) -> tuple[int, ...]:
    """Shape of a state that the package keeps: its numbers in rows of the alignment, the last one
    filled up."""
    return (1, 1, -(-math.prod(state.shape) // ALIGNMENT), ALIGNMENT)


def mask_name(window: int | None) -> str:
    """Name of the mask input of layers with this sliding window."""
    return "mask" if window is None else f"mask_{window}"


def head_parts(rows: int) -> list[tuple[int, int]]:
    """First row and end of each part of an output that is longer than HEAD_ROWS."""
    return [(at, min(at + HEAD_ROWS, rows)) for at in range(0, rows, HEAD_ROWS)]
