"""What LiteRT-LM expects of a .tflite: signatures, names, layouts. Found by running it (0.18.1).

Signatures ``prefill_N``, N tokens (several are allowed), and ``decode``, one token. Both take

    tokens      int32 [1, T]
    input_pos   int32 [T]           positions, one after the other
    mask        float32 [1, 1, T, S], added to the scores: 0, or HIDDEN
    kv_cache_k_I  float32 [1, G, S, d]     of layer I
    kv_cache_v_I  float32 [1, G, d, S]     turned, so that no product copies it

and give the caches back under the same names; slot j holds position j. ``decode`` gives
``logits`` float32 [1, 1, V] too; ``prefill`` does not, and so its last feed-forward is never built.

S is the context length. LiteRT-LM masks the future itself; a sliding window is computed inside.
"""

from __future__ import annotations

from slmkit.backend.artifact import SequenceState, Tensor

HIDDEN = -0.7 * 3.4028234663852886e38  # -0.7 FLT_MAX: two of them must not be added up
DECODE = "decode"


def prefill_name(tokens: int) -> str:
    """The signature that reads so many tokens."""
    return f"prefill_{tokens}"


def cache_names(layer: int) -> tuple[str, str]:
    """Keys and values of a layer, as inputs and as outputs."""
    return f"kv_cache_k_{layer}", f"kv_cache_v_{layer}"


def state_name(kind: str, layer: int) -> str:
    """A state of a layer, as input and as output; LiteRT-LM knows none."""
    return f"state_{kind}_{layer}"


def cache_tensors(state: SequenceState) -> tuple[Tensor, ...]:
    """KV cache and states: inputs that are outputs under the same names, 0 at first."""
    heads, width, total = state.kv_heads, state.head_width, state.context_length
    found = []
    for layer in state.attention_layers:
        keys, values = cache_names(layer)
        about = "keys of a layer, slot j for position j"
        found.append(Tensor(keys, "float32", (1, heads, total, width), about))
        found.append(
            Tensor(values, "float32", (1, heads, width, total), "values of a layer, turned")
        )
    for each in state.states:
        about = f"state of layer {each.layer}"
        name = state_name(each.kind, each.layer)
        found.append(Tensor(name, "float32", (1, *each.shape), about))
    return tuple(found)


def weight_input(number: int) -> str:
    """A weight of the skeleton, in the order in which the architecture names them."""
    return f"w_{number}"


def sizes_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor without dynamic dimensions."""
    return tuple(int(size) for size in tensor.shape)
