"""Run artifacts in workers and the reference here, layer by layer, and compare their answers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.artifact import Artifact, Mode, artifact_to_json
from slmkit.backend.declaration import EVERY_ERROR, LOWERING, QUANTIZATION
from slmkit.backend.partition import unit_of
from slmkit.backend.registry import error_kinds
from slmkit.checkpoint.folder import Checkpoint
from slmkit.evaluation.divergence import Divergence
from slmkit.evaluation.gate import gate_mode
from slmkit.interpreters import reference
from slmkit.models.spec import Spec
from slmkit.ops import Floats
from slmkit.parity.adapted import AdaptedCodes
from slmkit.parity.crossing import Crossing, reference_crossing
from slmkit.parity.execute import CROSSING
from slmkit.parity.golden import (
    WHOLE_CONTEXT,
    Crossed,
    Golden,
    Ids,
    Outputs,
    Prompt,
    outputs_of,
)
from slmkit.parity.metrics import (
    FLOAT_WEIGHTS,
    REFERENCE,
    ROUNDED,
    Comparison,
    judge,
    verdict,
)
from slmkit.quant.codes import CodesFile
from slmkit.recipe.bounds import Bound
from slmkit.system import subprocess_worker
from slmkit.system.progress import Progress

CODES = "codes"  # the mode of the comparison of codes with float weights
RUNTIME = f"NumPy {np.__version__}, float32"


@dataclass(frozen=True)
class Run:
    """An artifact's answers: tokens (those that it generated included) and logits."""

    sequences: list[Ids]
    logits: list[Floats]
    runtime: str
    crossing: Floats | None = None  # logits of the whole context's positions that count


@dataclass(frozen=True)
class Answers:
    """The reference's answers on one encoding."""

    exact: Golden
    rounded: Golden | None = None  # with 8-bit activations


@dataclass(frozen=True)
class HeldOut:
    """Held-out text, with the float model's answers: every artifact reads it in one mode."""

    path: Path  # of ``slmkit.evaluation.answers_file``
    tokens: int
    chunk: int  # most tokens that are fed at once


@dataclass
class Proof:
    """Runs the artifacts of one bundle; keeps the first run, which chose the tokens."""

    folder: Path
    artifacts: Mapping[str, Artifact]
    bounds: Mapping[str, Bound]
    scratch: Path  # logits of the runs go here
    progress: Progress
    held_out: HeldOut | None = None
    crossing: Crossing | None = None  # read in the modes that show errors of lowering
    first: Run | None = None
    adapter: Path | None = None  # a file beside the artifact, with which it runs
    # artifact, mode, runtime, and how far it is from the float model on the held-out text
    measured: list[tuple[str, str, str, Divergence]] = field(default_factory=list)

    def generate(self, prompts: Sequence[Prompt]) -> list[Ids]:
        """Let the first artifact, in its first mode, continue the prompts greedily."""
        artifact = next(iter(self.artifacts.values()))
        ids = [prompt.ids for prompt in prompts]
        lengths, decode = [len(each) for each in ids], [prompt.decode for prompt in prompts]
        self.first = self._run(artifact, artifact.modes[0], ids, lengths, decode)
        return self.first.sequences

    def compare(self, answers: Answers, names: Sequence[str]) -> list[Comparison]:
        """Some artifacts in every mode, against the reference's answers or an earlier mode.

        Comparisons for which there are no answers are left out.
        """
        found: list[Comparison] = []
        kinds = error_kinds(self.artifacts)
        for artifact in (self.artifacts[name] for name in names):
            golden, known = answers.exact, {REFERENCE: answers.exact}
            if answers.rounded is not None:
                known[ROUNDED] = answers.rounded
            for mode in artifact.modes:
                wanted = golden.first(mode.prompts)
                run = self.first or self._run_golden(artifact, mode, wanted)
                self.first = None
                got = outputs_of(run.logits, golden.outputs.columns)
                if any(mode.name in each.bounds for each in artifact.modes):
                    known[mode.name] = replace(wanted, outputs=got)
                found += [
                    judge(
                        artifact.name,
                        mode,
                        against,
                        run.runtime,
                        got,
                        known[against].first(len(wanted.sequences)),
                        kinds,
                        self.bounds,
                    )
                    for against in mode.bounds
                    if against in known
                ]
                if golden.crossed is not None and run.crossing is not None:
                    got = outputs_of([run.crossing], golden.crossed.outputs.columns)
                    long, answer = whole_context(mode), golden.crossed.as_golden()
                    about = artifact.name, long, REFERENCE, run.runtime
                    found.append(judge(*about, got, answer, kinds, self.bounds))
        return found

    def _run_golden(self, artifact: Artifact, mode: Mode, golden: Golden) -> Run:
        sequences, lengths = golden.sequences, golden.prompt_lengths
        return self._run(artifact, mode, sequences, lengths, [0] * len(sequences))

    def _run(
        self,
        artifact: Artifact,
        mode: Mode,
        sequences: Sequence[Ids],
        lengths: Sequence[int],
        decode: Sequence[int],
    ) -> Run:
        out = Path(tempfile.mkdtemp(prefix="logits-", dir=self.scratch))
        payload: dict[str, Any] = {
            "artifact": artifact_to_json(artifact),
            "folder": str(self.folder / artifact.name),
            "mode": mode.name,
            "out": str(out),
            "sequences": [ids.tolist() for ids in sequences],
            "prompt_lengths": list(lengths),
            "decode": list(decode),
        }
        if self.adapter is not None:
            payload["adapter"] = str(self.adapter)
        crossing = self.crossing if crosses(mode) else None
        if crossing is not None:
            payload["crossing"] = crossing.to_json()
        tokens, held_out = sum(map(len, sequences)) + sum(decode), self.held_out
        if held_out is not None and mode == gate_mode(artifact):
            payload |= {"held_out": str(held_out.path), "chunk": held_out.chunk}
            tokens += held_out.tokens
        tokens += len(crossing.ids) if crossing is not None else 0
        self.progress.stage(f"run {artifact.name}, {mode.name}", tokens)
        result = subprocess_worker.call(
            "slmkit.parity.execute:run_job",
            payload,
            lambda done, _: self.progress.advance(done),
            f"runs the artifact {artifact.name}",
        )
        if "divergence" in result:
            found = Divergence(**result["divergence"])
            self.measured.append((artifact.name, mode.name, result["runtime"], found))
        logits = [np.load(out / f"{at}.npy", mmap_mode="r") for at in range(len(sequences))]
        sequences = [np.asarray(ids) for ids in result["sequences"]]
        crossed = np.load(out / CROSSING) if crossing is not None else None
        return Run(sequences, logits, result["runtime"], crossed)


def whole_context(mode: Mode) -> Mode:
    """The mode under the name of its comparison over the whole context."""
    return replace(mode, name=f"{mode.name}, {WHOLE_CONTEXT}")


def crosses(mode: Mode) -> bool:
    """Whether a mode reads a text as long as the context: those that show errors of lowering,
    where the runtime is not too slow for all prompts."""
    return mode.bounds.get(REFERENCE) == LOWERING and mode.prompts is None


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
    spec = spec.scaled(codes.stream_scale)
    names, texts = tuple(prompt.name for prompt in prompts), sum(each.text for each in prompts)
    lengths = tuple(len(prompt.ids) for prompt in prompts)

    def golden(kind: type[reference.Reference], label: str) -> Golden:
        logits = _reference(codes, spec, sequences, label, progress, kind)
        return Golden(names, texts, tuple(sequences), lengths, outputs_of(logits))

    exact = golden(reference.Reference, "reference on codes")
    if crossing is not None:
        counted = _counted(codes, spec, "reference on codes, whole context", progress)
        outputs = outputs_of([reference_crossing(counted, spec, crossing)])
        exact = replace(exact, crossed=Crossed(crossing, outputs))
    modes = [mode for each in artifacts for mode in each.modes]
    if not any(ROUNDED in mode.bounds for mode in modes):
        return Answers(exact)
    return Answers(exact, golden(reference.Rounded, "reference with 8-bit activations"))


def float_outputs(checkpoint: Checkpoint, sequences: Sequence[Ids], progress: Progress) -> Outputs:
    """The reference on the checkpoint's own weights, every column of the vocabulary."""
    label = "reference on floats"
    return outputs_of(_reference(checkpoint.shards, checkpoint.spec, sequences, label, progress))


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
    kind: type[reference.Reference] = reference.Reference,
) -> list[Floats]:
    return reference.logits(_counted(weights, spec, label, progress), spec, sequences, kind=kind)


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
