"""Golden cases of an app's self-test: prompts, and the reference's best ids at every step."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel

from slmkit.bundle.manifest import STRICT, BundledArtifact
from slmkit.parity.golden import TOP, Golden, Outputs
from slmkit.parity.golden_file import load_golden

BEST = TOP  # ids of a step whose logits are compared
DIGITS = 5  # after the point, of a logit: 1e-5 of logits near 10 is 120 dB


class Step(BaseModel):
    """One decoding step: the token that follows, and the reference's logits that predict it."""

    model_config = STRICT

    id: int  # fed next, whatever the artifact says, so that steps stay comparable
    top: tuple[tuple[int, float], ...]  # the best ids with their logits, the best one first
    norm: float  # log of the sum of exp over the whole vocabulary


class Case(BaseModel):
    """A prompt and the steps after it."""

    model_config = STRICT

    name: str
    prompt_ids: tuple[int, ...]
    steps: tuple[Step, ...]


class Cases(BaseModel):
    """All cases of a bundle, as an app reads them from ``cases.json``."""

    model_config = STRICT

    format: Literal["slmkit-app-cases/1"] = "slmkit-app-cases/1"
    cases: tuple[Case, ...]


def cases_of(golden: Golden) -> Cases:
    """The golden prompts of text, with what the reference says on the artifact's codes.

    A bundle of a large vocabulary keeps some of its columns, among them the best of each step.
    """
    golden = golden.judged(random_ids=False)
    found = []
    parts = zip(
        golden.names, golden.sequences, golden.prompt_lengths, golden.decoded(), strict=True
    )
    for name, ids, length, positions in parts:
        best = int(golden.outputs.best[positions.stop - 1])
        following = [*ids[length:].tolist(), best]
        at = range(positions.start, positions.stop)
        steps = tuple(
            _step(golden.outputs, position, following[number]) for number, position in enumerate(at)
        )
        found.append(Case(name=name, prompt_ids=tuple(ids[:length].tolist()), steps=steps))
    return Cases(cases=tuple(found))


def cases_of_bundle(bundle: Path, artifact: BundledArtifact) -> Cases:
    """The cases of an artifact, out of the bundle's proof files."""
    return cases_of(load_golden(bundle / artifact.golden))


def _step(outputs: Outputs, position: int, following: int) -> Step:
    values = outputs.values[position]
    order = np.argsort(-values, kind="stable")[:BEST]
    top = tuple((int(outputs.columns[at]), round(float(values[at]), DIGITS)) for at in order)
    return Step(id=following, top=top, norm=round(float(outputs.norm[position]), DIGITS))
