"""Gather what parity compares: artifacts run in workers, the reference layer by layer here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from slmkit.backend.interface import Artifact, Mode
from slmkit.backend.partition import unit_of
from slmkit.checkpoint.folder import Checkpoint
from slmkit.interpreters import reference
from slmkit.models.spec import Spec
from slmkit.ops import Floats
from slmkit.parity import metrics
from slmkit.parity.golden import Golden, Ids, Outputs, Prompt, outputs_of
from slmkit.recipe.bounds import Bounds
from slmkit.system import subprocess_worker
from slmkit.system.progress import Progress

CODES = "codes"  # the mode of the line that tells the recipe's price
RUNTIME = f"NumPy {np.__version__}, float32"


@dataclass(frozen=True)
class Run:
    """What an artifact answered: its tokens (with what it generated) and logits."""

    sequences: list[Ids]
    logits: list[Floats]
    runtime: str


@dataclass(frozen=True)
class Answers:
    """What the artifacts of one encoding are compared with."""

    exact: Golden
    rounded: Golden | None = None  # with 8-bit activations


@dataclass
class Proof:
    """Runs the artifacts of one bundle; keeps the first run, which chose the tokens."""

    folder: Path
    artifacts: Mapping[str, Artifact]
    bounds: Bounds
    scratch: Path  # logits of the runs go here
    progress: Progress
    first: Run | None = None

    def generate(self, prompts: Sequence[Prompt]) -> list[Ids]:
        """Let the first artifact, in its first mode, continue the prompts greedily."""
        artifact = next(iter(self.artifacts.values()))
        ids = [prompt.ids for prompt in prompts]
        lengths, decode = [len(each) for each in ids], [prompt.decode for prompt in prompts]
        self.first = self._run(artifact, artifact.modes[0], ids, lengths, decode)
        return self.first.sequences

    def lines(self, answers: Answers, names: Sequence[str]) -> list[metrics.Line]:
        """Some artifacts in every mode, against the reference's answers or an earlier mode; what
        there are no answers for is left out."""
        lines = []
        for artifact in (self.artifacts[name] for name in names):
            golden, known = answers.exact, {metrics.REFERENCE: answers.exact}
            if answers.rounded is not None:
                known[metrics.ROUNDED] = answers.rounded
            for mode in artifact.modes:
                wanted = golden.first(mode.prompts)
                run = self.first or self._run_golden(artifact, mode, wanted)
                self.first = None
                got = outputs_of(run.logits, golden.outputs.columns)
                known[mode.name] = replace(wanted, outputs=got)
                lines += [
                    metrics.judge(
                        artifact.name,
                        mode,
                        against,
                        run.runtime,
                        got,
                        known[against].first(len(wanted.sequences)),
                        self.bounds,
                    )
                    for against in mode.bounds
                    if against in known
                ]
        return lines

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
        payload = {
            "artifact": asdict(artifact),
            "folder": str(self.folder / artifact.name),
            "mode": mode.name,
            "out": str(out),
            "sequences": [ids.tolist() for ids in sequences],
            "prompt_lengths": list(lengths),
            "decode": list(decode),
        }
        self.progress.stage(
            f"run {artifact.name}, {mode.name}", sum(map(len, sequences)) + sum(decode)
        )
        result = subprocess_worker.call(
            "run",
            payload,
            lambda done, _: self.progress.advance(done),
            f"runs the artifact {artifact.name}",
        )
        logits = [np.load(out / f"{at}.npy", mmap_mode="r") for at in range(len(sequences))]
        return Run([np.asarray(ids) for ids in result["sequences"]], logits, result["runtime"])


def answers(
    weights: reference.Weights,
    spec: Spec,
    prompts: Sequence[Prompt],
    sequences: Sequence[Ids],
    artifacts: Iterable[Artifact],
    progress: Progress,
) -> Answers:
    """The reference on the codes over whole sequences, every column of the vocabulary; and the one
    of rounded activations, if a mode of the artifacts is compared with it."""
    names = tuple(prompt.name for prompt in prompts)
    lengths = tuple(len(prompt.ids) for prompt in prompts)

    def golden(kind: type[reference.Reference], label: str) -> Golden:
        logits = _reference(weights, spec, sequences, label, progress, kind)
        return Golden(names, tuple(sequences), lengths, outputs_of(logits))

    exact = golden(reference.Reference, "reference on codes")
    modes = [mode for each in artifacts for mode in each.modes]
    if not any(metrics.ROUNDED in mode.bounds for mode in modes):
        return Answers(exact)
    return Answers(exact, golden(reference.Rounded, "reference with 8-bit activations"))


def float_outputs(checkpoint: Checkpoint, sequences: Sequence[Ids], progress: Progress) -> Outputs:
    """The reference on the checkpoint's own weights, every column of the vocabulary."""
    label = "reference on floats"
    return outputs_of(_reference(checkpoint.shards, checkpoint.spec, sequences, label, progress))


def price(artifact: str, floats: Outputs, golden: Golden, bounds: Bounds) -> metrics.Line:
    """The recipe's price: the codes' logits (every column) against the float weights'."""
    measured = metrics.measure(floats, golden.outputs, golden.decoded())
    failures = metrics.broken(measured, bounds.quantization)
    against, error = metrics.FLOAT_WEIGHTS, "quantization"
    return metrics.Line(artifact, CODES, against, error, RUNTIME, measured, failures)


def _reference(
    weights: reference.Weights,
    spec: Spec,
    sequences: Sequence[Ids],
    label: str,
    progress: Progress,
    kind: type[reference.Reference] = reference.Reference,
) -> list[Floats]:
    progress.stage(label, spec.layers)
    return reference.logits(_Counted(weights, progress, spec.layers), spec, sequences, kind=kind)


class _Counted:
    """Weights that tell the progress at each layer's first vector."""

    def __init__(self, weights: reference.Weights, progress: Progress, layers: int) -> None:
        self.rows, self.blocks = weights.rows, weights.blocks
        self.schemes = getattr(weights, "schemes", {})
        self._vector = weights.vector
        self._progress, self._layers, self._unit = progress, layers, layers

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias, (width,)."""
        unit = unit_of(tensor, self._layers)
        if unit != self._unit and unit < self._layers:
            self._progress.advance(1)
        self._unit = unit
        return self._vector(tensor)
