"""Parity of a finished bundle: later, on another machine, with or without its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from slmkit.activations.observe import load_runs
from slmkit.backend.declaration import QUANTIZATION
from slmkit.bundle.manifest import Manifest, read_manifest
from slmkit.bundle.roles import proof_file
from slmkit.bundle.verify import verify
from slmkit.checkpoint.folder import Checkpoint
from slmkit.errors import ParityError
from slmkit.evaluation.gate import Quality
from slmkit.evaluation.text import windows_of
from slmkit.parity.crossing import Crossing
from slmkit.parity.golden import Golden
from slmkit.parity.golden_file import load_golden
from slmkit.parity.metrics import ROUNDED, Comparison, failures_of
from slmkit.parity.prompts import PromptComparison, compare_prompts, failures_of_prompts
from slmkit.parity.proof import Proof
from slmkit.parity.references import Answers, answers, float_outputs, quantization_cost
from slmkit.planning.plan import encoding_name
from slmkit.system.cache import Cache, work_folder
from slmkit.system.jobs import Limits
from slmkit.system.progress import Progress
from slmkit.workflows.codes import bundle_codes, checkpoint_of
from slmkit.workflows.quality import TEXT, Gate, open_gate


@dataclass(frozen=True)
class Rechecked:
    """A parity report; its ``recorded`` comparisons were not computed again."""

    comparisons: tuple[Comparison, ...]
    recorded: tuple[Comparison, ...]
    quality: Quality | None = None  # on held-out text, measured again; None: without the checkpoint
    prompts: tuple[PromptComparison, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every bound is kept."""
        kept = self.quality is None or self.quality.passed
        same = not failures_of_prompts(self.prompts)
        return kept and same and all(each.passed for each in self.comparisons)

    def check(self) -> None:
        """Raise ParityError if a bound is broken."""
        if not self.passed:
            quality = self.quality.failures if self.quality else []
            prompts = failures_of_prompts(self.prompts)
            reasons = "; ".join([*failures_of(self.comparisons), *quality, *prompts])
            raise ParityError(f"parity failed: {reasons}", "build the bundle again")


def recheck(
    folder: Path,
    model: Path | None,
    cache: Path | None,
    progress: Progress,
    adapters: Sequence[Path] = (),
    limits: Limits | None = None,
) -> Rechecked:
    """Verify every hash, run every artifact again, compare with the golden answers.

    With the checkpoint (and the ``adapters`` that were merged into it), codes and both references
    are computed anew, over every logit; without, the golden answers kept in the bundle serve, and
    the quantization error is the recorded one.
    """
    verify(folder)
    manifest = read_manifest(folder)
    artifacts = {each.name: each for each in manifest.artifacts}
    files = dict.fromkeys(each.golden for each in manifest.artifacts)
    kept = {file: Answers(load_golden(folder / file)) for file in files}
    with work_folder(cache) as work:
        proof = Proof(folder, artifacts, manifest.recipe.parity, work, progress)
        proof.limits, proof.cache = limits or Limits(), cache
        proof.parameters = manifest.model.parameters
        golden = next(iter(kept.values())).exact
        proof.crossing = _crossing_of(golden)
        costs: tuple[Comparison, ...] = ()
        gate = None
        if model is None:
            proof.run_all(golden.sequences, golden.prompt_lengths, lambda own: None)
        else:
            where = Cache(cache or work / "cache")
            checkpoint = checkpoint_of(manifest, model, adapters)
            gate = _open_gate(folder, manifest, checkpoint, work, progress)
            proof.held_out = gate.file if gate else None
            anew = partial(_anew, folder, manifest, kept, checkpoint, gate, where)
            kept, costs = proof.run_all(golden.sequences, golden.prompt_lengths, anew)
        found = [
            comparison
            for file, expected in kept.items()
            for comparison in proof.compare(expected, _holders(manifest, file))
        ]
        quality = gate.quality(proof) if gate else None
    tokenizer, name = folder / manifest.tokenizer, manifest.chat_template
    prompts = compare_prompts(folder, artifacts.values(), tokenizer, name, progress)
    recorded = () if model is not None else _recorded(manifest)
    return Rechecked((*found, *costs), recorded, quality, prompts)


def _open_gate(
    folder: Path, manifest: Manifest, checkpoint: Checkpoint, scratch: Path, progress: Progress
) -> Gate | None:
    """The gate on the text that the build read; bundles of older versions have none."""
    kept = proof_file(folder, TEXT)
    if not kept.is_file():
        return None
    text = windows_of(list(load_runs(kept)))
    return open_gate(checkpoint, manifest.recipe, text, scratch, progress)


def _recorded(manifest: Manifest) -> tuple[Comparison, ...]:
    """Comparisons that need the checkpoint: the recipe's cost, and those with rounded answers."""
    return tuple(
        each for each in manifest.parity if each.error == QUANTIZATION or each.against == ROUNDED
    )


def _crossing_of(golden: Golden) -> Crossing | None:
    """The text as long as the context; bundles of older versions have none."""
    return golden.crossed.crossing if golden.crossed else None


def _holders(manifest: Manifest, golden: str) -> list[str]:
    """The artifacts that are compared with a golden file."""
    return [each.name for each in manifest.artifacts if each.golden == golden]


def _anew(
    folder: Path,
    manifest: Manifest,
    kept: Mapping[str, Answers],
    checkpoint: Checkpoint,
    gate: Gate | None,
    cache: Cache,
    progress: Progress,
) -> tuple[dict[str, Answers], tuple[Comparison, ...]]:
    """The golden answers and the quantization errors out of the checkpoint itself."""
    recipe = manifest.recipe
    sequences = next(iter(kept.values())).exact.sequences
    floats = float_outputs(checkpoint, sequences, progress)
    fresh, costs = {}, []
    for file, old in kept.items():
        names = _holders(manifest, file)
        codes = bundle_codes(folder, manifest, checkpoint, names[0], cache, progress)
        fresh[file] = answers(
            codes,
            checkpoint.spec,
            old.exact.prompts(),
            sequences,
            [manifest.artifact(name) for name in names],
            progress,
            _crossing_of(old.exact),
        )
        name = encoding_name(names, [each.name for each in manifest.artifacts])
        if gate is not None:
            gate.measure_codes(name, names, codes, checkpoint, progress)
        costs.append(quantization_cost(name, floats, fresh[file].exact, recipe.parity))
    return fresh, tuple(costs)
