"""The contract with the host (the app, or onnxruntime-genai): inputs, outputs, who keeps the cache.

One graph serves prefill and decode: T tokens, after a past of any length up to the context length.
Its inputs are ``input_ids`` int64 [batch, T] and, in models with attention, ``attention_mask``
int64 [batch, past + T], 1 for each token so far; its output is ``logits`` float32 [batch, T, V], or
[batch, 1, V] of the last token: then ``logits_from``, int64 [1], is one more input, which may be
left out. It is the first token whose logits are computed, counted from the call's first one or, if
negative, from its end; -1 if it is left out.

Each tensor of a sequence's state has an input and an output name; the output is the input of the
next call:

    past_key_values.N.key    present.N.key       float32 [batch, G, tokens, d], of attention layer N
    past_key_values.N.value  present.N.value     the same; both empty at first (0 tokens)
                                                 (int8 under the option kv_cache: int8)
    past_conv.N              present_conv.N      float32 [batch, D, K - 1], zeros at first
    past_scan.N              present_scan.N      float32 [batch, H, N, P], zeros at first

These are onnxruntime-genai's names for a decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from slmkit.backend.artifact import SequenceState, Tensor

LOGITS_FROM = "logits_from"  # the input that an artifact with logits of last tokens has
LAST = -1  # its value where none is given
STATES = {"conv": "the last tokens' values", "scan": "what the scan has gathered"}
PARTS = ("key", "value")


@dataclass(frozen=True)
class StateTensor:
    """One tensor of a sequence's state: input and output name, and the shape without batch.

    The dimension ``None`` is the number of tokens.
    """

    past: str
    present: str
    shape: tuple[int | None, ...]
    about: str
    dtype: str = "float32"

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The input and the output as the manifest lists them."""
        about_output = self.about
        if None in self.shape:
            about_output += ", these tokens included"
        return (
            Tensor(self.past, self.dtype, self._dynamic("past"), self.about),
            Tensor(self.present, self.dtype, self._dynamic("total"), about_output),
        )

    def empty_shape(self) -> tuple[int, ...]:
        """The shape without batch before the first token."""
        return tuple(0 if size is None else size for size in self.shape)

    def _dynamic(self, tokens: str) -> tuple[int | str, ...]:
        return ("batch", *(tokens if size is None else size for size in self.shape))


def state_tensors(state: SequenceState, cache: str = "float32") -> tuple[StateTensor, ...]:
    """The KV cache of each attention layer, of the type ``cache``, then the recurrent states."""
    tensors = []
    for layer in state.attention_layers:
        for part, past, present in zip(PARTS, *cache_names(layer), strict=True):
            shape = (state.kv_heads, None, state.head_width)
            about = f"cached {part}s of layer {layer}"
            tensors.append(StateTensor(past, present, shape, about, cache))
    for each in state.states:
        past, present = state_names(each.kind, each.layer)
        about = f"state of layer {each.layer}: {STATES[each.kind]}"
        tensors.append(StateTensor(past, present, each.shape, about))
    return tuple(tensors)


def cache_names(layer: int | str) -> tuple[list[str], list[str]]:
    """Past and present names of a layer's KV cache, key before value, as in onnxruntime-genai."""
    past = [f"past_key_values.{layer}.{part}" for part in PARTS]
    return past, [f"present.{layer}.{part}" for part in PARTS]


def state_names(kind: str, layer: int | str) -> tuple[str, str]:
    """Past and present names of a layer's recurrent state."""
    return f"past_{kind}.{layer}", f"present_{kind}.{layer}"
