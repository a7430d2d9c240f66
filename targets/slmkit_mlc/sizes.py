"""Sizes of a library: the lengths that its memory is planned for, windows, the cache's layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slmkit.backend.interface import Job, Model, Spec, State
from slmkit_mlc.contract import KV, RECURRENT

BATCH = 4  # sequences that MLC's engine may hold at once
RANKS = 6  # likeliest tokens that the engine asks for, of each sequence


@dataclass(frozen=True)
class Limits:
    """The largest sizes that a library's memory is planned for."""

    context: int
    prefill: int
    batch: int

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


def window_of(spec: Spec) -> int | None:
    """The sliding window of a model's layers, in tokens; None if no layer has one."""
    return max((each for each in spec.windows if each is not None), default=None)


def prefill_of(job: Job) -> int:
    """Tokens of a chunk. Shorter than a sliding window: of a chunk, TVM's kernels see all, and a
    row that sees nothing of the past is not a number there."""
    most = min(job.prefill_chunk, job.context_length)
    window = window_of(job.spec)
    return most if window is None else max(1, min(most, window - 1))


def kept_by(model: Model) -> tuple[str, ...]:
    """What a sequence keeps from token to token: a KV cache, recurrent states, or both."""
    present = {KV: model.attention_layers, RECURRENT: model.states}
    return tuple(kind for kind, there in present.items() if there)


def cache_layers(model: Model) -> list[str]:
    """The cache's layers by kind: those that attend. Where all of them slide, one more that no
    layer uses: TVM's cache fails without any that sees everything (0.27.0.post1)."""
    windows = [model.spec.windows[layer] for layer in model.attention_layers]
    kinds = ["mha" if window is None else "mha_sliding" for window in windows]
    return kinds if "mha" in kinds else [*kinds, "mha"]


def state_layers(model: Model) -> list[int]:
    """Layers with states; TVM counts only these."""
    return list(dict.fromkeys(state.layer for state in model.states))


def dtype_of(states: Sequence[State]) -> str:
    """The type of a library's activations. A scan multiplies four values that stem from one, so
    models of scans magnify float16's rounding (46 dB in mamba-130m's shape): they get float32."""
    scans = any(state.kind == "scan" for state in states)
    return "float32" if scans else "float16"


def unequal_layers(model: Model) -> bool:
    """Whether layers differ in what they keep."""
    kept = {
        tuple((state.kind, state.shape) for state in model.states if state.layer == layer)
        for layer in state_layers(model)
    }
    return len(kept) > 1
