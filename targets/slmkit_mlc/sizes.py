"""Sizes of a library: lengths to plan memory for, sliding windows, layers of cache and state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmkit.backend.interface import Job, Model, Spec, State
from slmkit_mlc.contract import KV, RECURRENT

BATCH = 4  # sequences that MLC's engine may process at once
RANKS = 6  # most probable tokens of each sequence that the engine may ask for


@dataclass(frozen=True)
class Limits:
    """The largest sizes that a library's memory is planned for."""

    context: int  # tokens in the KV cache
    prefill: int  # tokens of a prefill chunk
    batch: int  # sequences

    @property
    def bounds(self) -> dict[str, int]:
        """Upper bounds of the symbolic lengths, by name."""
        return {
            "total_seq_len": self.context,
            "seq_len": self.prefill,
            "batch_size": self.batch,
            "num_samples": self.batch,
            "num_positions": RANKS * self.batch,
        }


def sliding_window(spec: Spec) -> int | None:
    """The sliding window of a model's layers in tokens; None if no layer has one."""
    return max((window for window in spec.windows if window is not None), default=None)


def prefill_chunk(job: Job) -> int:
    """Tokens of a prefill chunk, shorter than a sliding window.

    Within a chunk TVM's kernels ignore the window, and a token whose window contains no token
    before the chunk gets NaN.
    """
    chunk = min(job.prefill_chunk, job.context_length)
    window = sliding_window(job.spec)
    return chunk if window is None else max(1, min(chunk, window - 1))


def state_kinds(model: Model) -> tuple[str, ...]:
    """The kinds of state of a sequence: KV, RECURRENT, or both, in this order."""
    present = {KV: model.attention_layers, RECURRENT: model.states}
    return tuple(kind for kind, layers in present.items() if layers)


def cache_layer_kinds(model: Model) -> list[str]:
    """TVM's kind of each attention layer: "mha", or "mha_sliding" with a sliding window.

    If all layers slide, one unused "mha" layer is added: TVM's cache fails without any
    (0.27.0.post1).
    """
    windows = [model.spec.windows[layer] for layer in model.attention_layers]
    kinds = ["mha" if window is None else "mha_sliding" for window in windows]
    return kinds if "mha" in kinds else [*kinds, "mha"]


def state_layers(model: Model) -> list[int]:
    """Layers with recurrent state, in order; TVM numbers only these."""
    return list(dict.fromkeys(state.layer for state in model.states))


def activation_dtype(states: Sequence[State]) -> str:
    """The type of a library's activations: float32 for models with a scan, else float16.

    A scan multiplies four values that derive from one, so it amplifies float16's rounding (46 dB in
    the shape of mamba-130m).
    """
    scans = any(state.kind == "scan" for state in states)
    return "float32" if scans else "float16"


def has_unequal_states(model: Model) -> bool:
    """Whether layers with recurrent state differ in its kinds or shapes."""
    by_layer: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
    for state in model.states:
        by_layer.setdefault(state.layer, []).append((state.kind, state.shape))
    return len({tuple(states) for states in by_layer.values()}) > 1
