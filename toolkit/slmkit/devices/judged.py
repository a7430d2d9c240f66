"""Tokens of a run, judged by the bounds that the bundle's build kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slmkit.backend.artifact import Artifact, Mode
from slmkit.backend.registry import error_kinds
from slmkit.devices.report import Case, Position, Tokens
from slmkit.ops import Floats
from slmkit.parity.golden import TOP, Golden, Outputs, log_norms
from slmkit.parity.metrics import REFERENCE, judge
from slmkit.recipe.bounds import Bound

DIGITS = 5  # after the point, of a logit: 1e-5 of logits near 10 is 120 dB


def judged_tokens(
    artifact: Artifact,
    mode: Mode,
    runtime: str,
    got: Outputs,
    golden: Golden,
    bounds: Mapping[str, Bound],
) -> Tokens:
    """Compare the outputs of all golden sequences with the reference's."""
    kinds = error_kinds([artifact.name])
    found = judge(artifact.name, mode, REFERENCE, runtime, got, golden, kinds, bounds)
    metrics = found.metrics
    return Tokens(
        top1=metrics.top1,
        greedy=metrics.greedy,
        decoded=metrics.decoded,
        snr_db=metrics.snr_db,
        median_db=metrics.median_db,
        failures=found.failures,
    )


def cases_of(golden: Golden, logits: Sequence[Floats]) -> tuple[Case, ...]:
    """The best ids of each decoded position, from the prompt's last token on."""
    parts = zip(golden.names, golden.prompt_lengths, logits, strict=True)
    return tuple(
        Case(name=name, positions=tuple(map(_position, rows[prompt - 1 :])))
        for name, prompt, rows in parts
    )


def _position(row: Floats) -> Position:
    order = np.argsort(-row, kind="stable")[:TOP]
    return Position(
        ids=tuple(order.tolist()),
        logits=tuple(round(float(row[at]), DIGITS) for at in order),
        norm=round(float(log_norms(row[None])[0]), DIGITS),
    )
