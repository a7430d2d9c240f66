"""The reference's answers, which every artifact is compared with: on codes, and on floats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slmkit.backend.artifact import Artifact
from slmkit.backend.declaration import EVERY_ERROR, QUANTIZATION, Forecast
from slmkit.backend.partition import unit_of
from slmkit.checkpoint.folder import Checkpoint
from slmkit.interpreters import reference
from slmkit.models.spec import Spec
from slmkit.ops import Floats
from slmkit.parity.adapted import AdaptedCodes
from slmkit.parity.crossing import Crossing, reference_crossing
from slmkit.parity.first_prompt import OpenReference, Stream, stream_kept_in
from slmkit.parity.golden import Crossed, Golden, Ids, Outputs, Prompt, outputs_of
from slmkit.parity.metrics import FLOAT_WEIGHTS, ROUNDED, Comparison, verdict
from slmkit.quant.codes import CodesFile
from slmkit.recipe.bounds import Bound
from slmkit.system.progress import Progress

CODES = "codes"  # the mode of the comparison of codes with float weights
# Of the references: 0.6 GB on SmolLM2-135M, 1.7 on Gemma 3 270M, whose vocabulary is five times as
# large (November 2026).
MEMORY = Forecast(base=500 * 10**6, per_parameter=5, most=2_500_000_000)  # a layer at a time
RUNTIME = f"NumPy {np.__version__}, float32"


@dataclass(frozen=True)
class Answers:
    """The reference's answers on one encoding."""

    exact: Golden
    rounded: Golden | None = None  # with 8-bit activations


def answers(
    codes: CodesFile | AdaptedCodes,
    spec: Spec,
    prompts: Sequence[Prompt],
    sequences: Sequence[Ids],
    artifacts: Iterable[Artifact],
    progress: Progress,
    crossing: Crossing | None = None,
) -> Answers:
    """The reference on the codes over whole sequences, every column of the vocabulary; and the one
    of rounded activations, if a mode of the artifacts is compared with it."""
    about = codes, spec, prompts, sequences, progress
    exact = exact_answers(*about, crossing)
    if not any(map(wants_rounding, artifacts)):
        return Answers(exact)
    return Answers(exact, rounded_answers(*about))


def wants_rounding(artifact: Artifact) -> bool:
    """Whether a mode of an artifact is compared with the reference of rounded activations."""
    return any(ROUNDED in mode.bounds for mode in artifact.modes)


def exact_answers(
    codes: CodesFile | AdaptedCodes,
    spec: Spec,
    prompts: Sequence[Prompt],
    sequences: Sequence[Ids],
    progress: Progress,
    crossing: Crossing | None = None,
    stream: Stream | None = None,
) -> Golden:
    """The reference on the codes. ``stream``: gets the residual stream."""
    spec = spec.scaled(codes.stream_scale)
    about = "reference on codes", progress, _kept(stream)
    exact = _golden(prompts, sequences, _reference(codes, spec, sequences, *about))
    if crossing is None:
        return exact
    counted = _counted(codes, spec, "reference on codes, whole context", progress)
    outputs = outputs_of([reference_crossing(counted, spec, crossing)])
    return replace(exact, crossed=Crossed(crossing, outputs))


def rounded_answers(
    codes: CodesFile | AdaptedCodes,
    spec: Spec,
    prompts: Sequence[Prompt],
    sequences: Sequence[Ids],
    progress: Progress,
) -> Golden:
    """The reference on the codes that rounds activations to 8 bits."""
    spec = spec.scaled(codes.stream_scale)
    about = "reference with 8-bit activations", progress, reference.Rounded
    return _golden(prompts, sequences, _reference(codes, spec, sequences, *about))


def _golden(prompts: Sequence[Prompt], sequences: Sequence[Ids], logits: list[Floats]) -> Golden:
    names, texts = tuple(prompt.name for prompt in prompts), sum(each.text for each in prompts)
    lengths = tuple(len(prompt.ids) for prompt in prompts)
    return Golden(names, texts, tuple(sequences), lengths, outputs_of(logits))


def float_outputs(
    checkpoint: Checkpoint,
    sequences: Sequence[Ids],
    progress: Progress,
    stream: Stream | None = None,
) -> Outputs:
    """The reference on the checkpoint's own weights, every column of the vocabulary. ``stream``:
    gets the residual stream."""
    about = checkpoint.shards, checkpoint.spec, sequences, "reference on floats", progress
    return outputs_of(_reference(*about, _kept(stream)))


def quantization_cost(
    encoding: str, floats: Outputs, golden: Golden, bounds: Mapping[str, Bound]
) -> Comparison:
    """The cost of the recipe: the codes' logits (every column) against the float weights'."""
    metrics, failures = verdict(
        replace(golden, outputs=floats),
        golden.outputs,
        EVERY_ERROR[QUANTIZATION],
        bounds[QUANTIZATION],
        FLOAT_WEIGHTS,
    )
    return Comparison(
        encoding,
        CODES,
        FLOAT_WEIGHTS,
        QUANTIZATION,
        RUNTIME,
        metrics,
        failures,
    )


def _reference(
    weights: reference.Weights,
    spec: Spec,
    sequences: Sequence[Ids],
    label: str,
    progress: Progress,
    kind: OpenReference,
) -> list[Floats]:
    return reference.logits(_counted(weights, spec, label, progress), spec, sequences, kind=kind)


def _kept(stream: Stream | None) -> OpenReference:
    return reference.Reference if stream is None else stream_kept_in(stream)


def _counted(weights: reference.Weights, spec: Spec, label: str, progress: Progress) -> _Counted:
    progress.stage(label, spec.layers)
    return _Counted(weights, progress, spec.layers)


class _Counted:
    """Weights that tell the progress at each layer's first vector."""

    def __init__(self, weights: reference.Weights, progress: Progress, layers: int) -> None:
        self._weights = weights
        self._progress, self._layers, self._unit = progress, layers, layers

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias, (width,)."""
        unit = unit_of(tensor, self._layers)
        if unit != self._unit and unit < self._layers:
            self._progress.advance(1)
        self._unit = unit
        return self._weights.vector(tensor)

    def __getattr__(self, name: str) -> Any:
        """All else is the weights' own."""
        return getattr(self._weights, name)
