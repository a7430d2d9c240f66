"""What passes between the host (the app) and the graphs: names, shapes, who keeps the cache.

Two graphs share every name: ``prefill`` reads T tokens, ``decode`` one, both after a past of
context length - T. The host gives

    input_ids [1, T] int32, or input_embeds [1, T, D] where the embedding stays with the host
    cos, sin [1, 1, T, d/2] float32, at the tokens' positions
    attention_mask [1, 1, T, S] float32: 0 where a token may look, ``hidden`` elsewhere
    past_key_N [1, G, d, S - T], past_value_N [1, G, S - T, d]: integers, as they came out

and takes logits [1, T, V] float32, new_key_N [1, G, d, T] and new_value_N [1, G, T, d]. It appends
the new ones to the past; a slot that holds nothing is hidden by the mask. Among the S keys that a
token sees, the past comes first. A layer with a sliding window reads attention_mask_W instead.

A layer that scans keeps states instead, of one size whatever the sequence's length:

    past_conv_N [1, K - 1, D] integers: what its convolution read of the last tokens, oldest first
    past_scan_N [1, N, H * P] float32: the scan's state, a head's channels side by side

All are 0 at first; new_conv_N and new_scan_N take their place. Prefill then reads whole chunks of
T tokens only, since a token that fills a chunk up would enter the states: what is left of a prompt
goes through decode, token by token.

Under ``runtime: genai`` (onnxruntime-genai's decoder-pipeline) keys and values are uint8, their
batch and head axes are exchanged, the newest key is always the last (the past slides), embeddings
are float32, and the mask is called attention_mask_float: the pipeline's own has the other name.
"""

from __future__ import annotations

from dataclasses import dataclass

HIDDEN = -50.0  # least that the mask takes off a score
UNRANGED = -1e6  # the same before any score was seen: in float32 it hides whatever there is
PAST, NEW = "past_", "new_"  # what the host gives of the tokens before; what it takes
STATES = {"conv": "int16", "scan": "float32"}  # HTP computes the latter in float16
ROOM = 20.0  # what stays between the lowest score seen in calibration and a hidden one: e^-20


@dataclass(frozen=True)
class Contract:
    """One way to keep the cache."""

    cache: str  # the integers' type
    heads_first: bool  # [G, 1, ...] instead of [1, G, ...]
    slides: bool  # the newest token is always in the last slot
    float_embeds: bool  # embeddings come as float32
    mask: str  # the mask input's name

    def cache_shape(self, part: str, groups: int, width: int, tokens: int) -> tuple[int, ...]:
        """Shape of ``tokens`` cached keys or values; keys lie transposed."""
        batch = (groups, 1) if self.heads_first else (1, groups)
        return (*batch, width, tokens) if part == "key" else (*batch, tokens, width)

    def mask_name(self, window: int | None) -> str:
        """The mask input of layers with this sliding window."""
        return self.mask if window is None else f"{self.mask}_{window}"


CONTRACTS = {
    "slmkit": Contract("int16", False, False, False, "attention_mask"),
    "genai": Contract("uint8", True, True, True, "attention_mask_float"),
}


def token_axis(part: str) -> int:
    """Where the tokens lie in a cache tensor."""
    return 3 if part == "key" else 2


def state_names(kind: str, layer: int) -> tuple[str, str]:
    """What the host gives and takes of a layer's state."""
    return f"{PAST}{kind}_{layer}", f"{NEW}{kind}_{layer}"


def state_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A state's tensor, channels last: conv (D, K - 1) and scan (H, N, P) as in the docstring."""
    if kind == "conv":
        return 1, shape[1], shape[0]
    return 1, shape[1], shape[0] * shape[2]
