"""The contract between the host (the app) and the graphs: inputs, outputs, KV cache and states.

Two graphs share every name: ``prefill`` reads T tokens, ``decode`` one, both after a past of
context length - T. The inputs are

    input_ids [1, T] int32, or input_embeds [1, T, D] where the embedding stays with the host
    cos, sin [1, 1, T, d/2] float32, at the tokens' positions
    attention_mask [1, 1, T, S] float32: 0 where a token may look, ``hidden`` elsewhere
    past_key_N [1, G, d, S - T], past_value_N [1, G, S - T, d]: integers, as the graphs return them

and the outputs logits [1, T, V] float32, new_key_N [1, G, d, T] and new_value_N [1, G, T, d]. The
host appends the new ones to the past; the mask hides empty slots. In the S keys of attention the
past precedes the new tokens. A layer with a sliding window reads attention_mask_W instead.

A layer with a scan has recurrent states instead, whose size does not depend on the sequence's
length:

    past_conv_N [1, K - 1, D] integers: the convolution's inputs of the last tokens, oldest first
    past_scan_N [1, N, H * P] float32: the scan's state, the channels of a head contiguous

All are 0 at first; the outputs new_conv_N and new_scan_N replace them. Prefill then reads whole
chunks of T tokens only, since a padding token would enter the states: the rest of a prompt goes
through decode, token by token.

Under ``runtime: genai`` (onnxruntime-genai's decoder-pipeline) keys and values are uint8, their
batch and head axes are exchanged, the newest key is always the last (the past slides), embeddings
are float32, and the mask is called attention_mask_float: the pipeline's own has the other name.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_MASK_VALUE = -50.0  # of masked scores: the mask's value is this or lower
FLOAT_MASK_VALUE = -1e6  # before calibration: in float32 it exceeds every score
PAST, NEW = "past_", "new_"  # prefixes of state inputs and of state outputs
STATES = {"conv": "int16", "scan": "float32"}  # HTP computes the latter in float16
ROOM = 20.0  # between the lowest calibrated score and a masked one: a factor of e^-20


@dataclass(frozen=True)
class Contract:
    """A format of the KV cache, the embeddings and the mask."""

    cache: str  # the integers' type
    heads_first: bool  # [G, 1, ...] instead of [1, G, ...]
    slides: bool  # the newest token is always in the last slot
    float_embeds: bool  # embeddings come as float32
    mask: str  # the mask input's name

    def cache_shape(self, part: str, groups: int, width: int, tokens: int) -> tuple[int, ...]:
        """Shape of ``tokens`` cached keys (transposed) or values; ``part``: "key" or "value"."""
        batch = (groups, 1) if self.heads_first else (1, groups)
        return (*batch, width, tokens) if part == "key" else (*batch, tokens, width)

    def mask_name(self, window: int | None) -> str:
        """The name of the mask input of layers with this sliding window."""
        return self.mask if window is None else f"{self.mask}_{window}"


CONTRACTS = {
    "slmkit": Contract("int16", False, False, False, "attention_mask"),
    "genai": Contract("uint8", True, True, True, "attention_mask_float"),
}


def token_axis(part: str) -> int:
    """The axis of tokens in a cache tensor; ``part``: "key" or "value"."""
    return 3 if part == "key" else 2


def state_names(kind: str, layer: int) -> tuple[str, str]:
    """Input and output name of a layer's recurrent state."""
    return f"{PAST}{kind}_{layer}", f"{NEW}{kind}_{layer}"


def state_shape(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a state's tensor, channels last: conv (D, K - 1) and scan (H, N, P) as above."""
    if kind == "conv":
        return 1, shape[1], shape[0]
    return 1, shape[1], shape[0] * shape[2]
