"""The contract with the host (the app, or onnxruntime-genai): inputs, outputs, who keeps the cache.

One graph serves prefill and decode: T tokens, after a past of any length up to the context length.
It takes ``input_ids`` int64 [batch, T] and, where a layer attends, ``attention_mask`` int64
[batch, past + T], 1 for each token so far, and gives ``logits`` float32 [batch, T, V]. What a
sequence keeps goes in under one name and comes out under another, to go in at the next call:

    past_key_values.N.key    present.N.key       float32 [batch, G, tokens, d], of attention layer N
    past_key_values.N.value  present.N.value     the same; both empty at first (0 tokens)
    past_conv.N              present_conv.N      float32 [batch, D, K - 1], zeros at first
    past_scan.N              present_scan.N      float32 [batch, H, N, P], zeros at first

These are onnxruntime-genai's names for a decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from slmkit.backend.artifact import SequenceState, Tensor

STATES = {"conv": "the last tokens' values", "scan": "what the scan has gathered"}
PARTS = ("key", "value")


@dataclass(frozen=True)
class Kept:
    """One tensor that a sequence keeps: its two names, and its shape without batch. A dimension of
    ``None`` is the number of tokens."""

    past: str
    present: str
    shape: tuple[int | None, ...]
    about: str

    def tensors(self) -> tuple[Tensor, Tensor]:
        """The input and the output, as the manifest has them."""
        grown = f"{self.about}, these tokens included" if None in self.shape else self.about
        return (
            Tensor(self.past, "float32", self._dynamic("past"), self.about),
            Tensor(self.present, "float32", self._dynamic("total"), grown),
        )

    def empty_shape(self) -> tuple[int, ...]:
        """The shape before the first token, without batch."""
        return tuple(0 if size is None else size for size in self.shape)

    def _dynamic(self, tokens: str) -> tuple[int | str, ...]:
        return ("batch", *(tokens if size is None else size for size in self.shape))


def kept_tensors(state: SequenceState) -> tuple[Kept, ...]:
    """Everything that a sequence keeps from call to call."""
    found = []
    for layer in state.attention_layers:
        for part, past, present in zip(PARTS, *cache_names(layer), strict=True):
            shape = (state.kv_heads, None, state.head_width)
            found.append(Kept(past, present, shape, f"cached {part}s of layer {layer}"))
    for each in state.states:
        past, present = state_names(each.kind, each.layer)
        about = f"state of layer {each.layer}: {STATES[each.kind]}"
        found.append(Kept(past, present, each.shape, about))
    return tuple(found)


def cache_names(layer: int | str) -> tuple[list[str], list[str]]:
    """Past and present names of a layer, key before value: onnxruntime-genai's convention."""
    past = [f"past_key_values.{layer}.{part}" for part in PARTS]
    return past, [f"present.{layer}.{part}" for part in PARTS]


def state_names(kind: str, layer: int | str) -> tuple[str, str]:
    """Past and present names of a layer's recurrent state."""
    return f"past_{kind}.{layer}", f"present_{kind}.{layer}"
