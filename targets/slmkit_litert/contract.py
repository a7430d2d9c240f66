"""Signatures, tensor names and layouts that LiteRT-LM expects of a .tflite.

Observed by running LiteRT-LM 0.18.1. The signatures are ``prefill_N``, for N tokens (a file may
have several), and ``decode``, for one token. Both have the inputs

    tokens      int32 [1, T]
    input_pos   int32 [T]           consecutive positions
    mask        float32 [1, 1, T, S], added to the scores: 0, or HIDDEN
    kv_cache_k_I  float32 [1, G, S, d]     keys of layer I
    kv_cache_v_I  float32 [1, G, d, S]     values, transposed, so that no product copies them

and return the caches under the same names; slot j holds position j. ``decode`` also returns
``logits`` float32 [1, 1, V]; ``prefill`` does not, so its graph lacks the last feed-forward.

S is the context length. LiteRT-LM passes the causal mask; the graph applies a sliding window.
"""

from __future__ import annotations

from slmkit.backend.artifact import SequenceState, Tensor

HIDDEN = -0.7 * 3.4028234663852886e38  # -0.7 FLT_MAX: the sum of two would overflow
DECODE = "decode"
PROOF = "proof"  # prefill with logits of every token: in no file that ships
LABEL = "weight "  # precedes the checkpoint's name in a bound tensor's name; TensorFlow's never do


def prefill_name(tokens: int) -> str:
    """Name of the signature for a chunk of ``tokens`` tokens."""
    return f"prefill_{tokens}"


def cache_names(layer: int) -> tuple[str, str]:
    """Names of a layer's keys and values, as inputs and as outputs."""
    return f"kv_cache_k_{layer}", f"kv_cache_v_{layer}"


def state_name(kind: str, layer: int) -> str:
    """Name of a layer's recurrent state, as input and as output; LiteRT-LM supports none."""
    return f"state_{kind}_{layer}"


def cache_tensors(state: SequenceState) -> tuple[Tensor, ...]:
    """KV cache and recurrent states: inputs, and outputs under the same names; initially 0."""
    heads, width, total = state.kv_heads, state.head_width, state.context_length
    tensors = []
    for layer in state.attention_layers:
        keys, values = cache_names(layer)
        about = "keys of a layer, slot j for position j"
        tensors.append(Tensor(keys, "float32", (1, heads, total, width), about))
        tensors.append(
            Tensor(values, "float32", (1, heads, width, total), "values of a layer, turned")
        )
    for layer_state in state.states:
        about = f"state of layer {layer_state.layer}"
        name = state_name(layer_state.kind, layer_state.layer)
        tensors.append(Tensor(name, "float32", (1, *layer_state.shape), about))
    return tuple(tensors)


def weight_input(number: int) -> str:
    """Name of a weight input of the graph template; weights are numbered in the model's order."""
    return f"w_{number}"


def static_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor that has no dynamic dimensions, as integers."""
    return tuple(int(size) for size in tensor.shape)
