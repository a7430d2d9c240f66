"""An adapter beside a bundle: converted for a runtime that takes adapters, and proved there.

The base's files are only read. The reference computes with the base's codes and the adapter in
float32. Parity is that of a build, in the artifact's own runtime, and one thing more: the base
alone must be further from the reference than any bound allows, else an adapter that the runtime
ignores would pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmkit import __version__
from slmkit.backend.artifact import Artifact, artifact_from_json, artifact_to_json
from slmkit.backend.declaration import LOWERING
from slmkit.backend.interface import TakesAdapters
from slmkit.backend.registry import declaration_of, find_backend
from slmkit.bundle.adapter import KIND, BesideAdapter, bundle_id, write_adapter_manifest
from slmkit.bundle.compose import NO_DEVICE
from slmkit.bundle.folder import check_place, written
from slmkit.bundle.manifest import BundledArtifact, Manifest, read_manifest
from slmkit.bundle.verify import list_files, verify
from slmkit.checkpoint.adapters.change import LowRank
from slmkit.checkpoint.adapters.low_rank_file import load_low_ranks, save_low_ranks
from slmkit.checkpoint.adapters.merged import facts_of
from slmkit.checkpoint.adapters.peft_folder import Adapter, open_adapter
from slmkit.checkpoint.folder import SAMPLE_MODEL, Checkpoint
from slmkit.errors import BundleError, ParityError, RefusedError, UsageError
from slmkit.parity.adapted import AdaptedCodes
from slmkit.parity.golden_file import load_golden
from slmkit.parity.metrics import Comparison, failures_of, measure
from slmkit.parity.proof import Proof
from slmkit.parity.references import answers
from slmkit.quant.codes import CodesFile
from slmkit.system import subprocess_worker
from slmkit.system.cache import Cache, CacheChoice, chosen_folder, work_folder
from slmkit.system.progress import Progress, Silent
from slmkit.system.subprocess_worker import Report
from slmkit.workflows.codes import bundle_codes, bundle_factors, checkpoint_of

PathLike = str | Path
MERGE = "slmkit build --adapter merges it into a bundle of its own"
LOW_RANKS = "low_ranks.safetensors"
# The base without the adapter must be this much further from the reference than the bound, so that
# an adapter without effect breaks it.
MARGIN_DB = 20


class FailedAdapter(ParityError):
    """An adapter that computes something else in its runtime; carries the report."""

    def __init__(self, comparisons: tuple[Comparison, ...]) -> None:
        super().__init__(
            f"parity failed, no adapter was written: {'; '.join(failures_of(comparisons))}",
            "an error in lowering is a bug of slmkit: please report it",
        )
        self.comparisons = comparisons


def add_adapter(
    base: PathLike,
    adapter: PathLike,
    out: PathLike,
    *,
    model: PathLike | None = None,
    artifact: str | None = None,
    force: bool = False,
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> BesideAdapter:
    """Convert a LoRA adapter for an artifact whose runtime takes adapters, and prove it: files of
    the bundle ``base`` are only read.

    ``adapter``: a folder of PEFT. ``out``: a new folder. ``model``: the checkpoint of the bundle;
    by default the sample model. ``artifact``: the first that takes adapters, if none is named.
    ``force``: replace an older adapter.

    Raises CheckpointError, BundleError, UsageError for what cannot be read; RefusedError for an
    artifact or an adapter with which that is impossible, ParityError if the runtime computes
    something else.
    """
    bundle, place, progress = Path(base), Path(out), progress or Silent()
    verify(bundle)
    manifest = read_manifest(bundle)
    manifest.refuse_failed()
    chosen = _artifact(manifest, artifact)
    check_place(place, force, KIND)
    checkpoint = _checkpoint(bundle, manifest, None if model is None else Path(model))
    opened = open_adapter(Path(adapter), checkpoint.model)
    refuse_whole(opened)
    _refuse(chosen, sorted(opened.low_ranks))
    with work_folder(chosen_folder(cache)) as work, written(place, force, KIND) as folder:
        where = Cache(chosen_folder(cache) or work / "cache")
        codes, low_ranks = beside(bundle, manifest, chosen, checkpoint, opened, where, progress)
        file = emit_adapter(chosen, low_ranks, folder, work)
        proof = Proof(bundle, {chosen.name: chosen}, manifest.recipe.parity, work, progress)
        proof.adapter = folder / file
        found, effect = prove(proof, manifest, chosen, checkpoint, codes, low_ranks)
        made = BesideAdapter(
            slmkit=__version__,
            model=manifest.model.name,
            artifact=chosen.name,
            base_manifest_sha256=bundle_id(bundle),
            adapter=facts_of(opened),
            file=file,
            effect_db=effect,
            parity=found,
            not_executed=(NO_DEVICE,),
            files=tuple(list_files(folder)),
        )
        write_adapter_manifest(made, folder)
    return made


def beside(
    bundle: Path,
    manifest: Manifest,
    artifact: Artifact,
    checkpoint: Checkpoint,
    adapter: Adapter,
    cache: Cache,
    progress: Progress,
) -> tuple[CodesFile, dict[str, LowRank]]:
    """The artifact's codes, and the adapter's changes with the factors that those weights have."""
    about = bundle, manifest, checkpoint, artifact.name, cache, progress
    codes, factors = bundle_codes(*about), bundle_factors(*about)
    return codes, {name: each.scaled(factors.get(name)) for name, each in adapter.low_ranks.items()}


def emit_adapter(
    artifact: Artifact, low_ranks: Mapping[str, LowRank], folder: Path, work: Path
) -> str:
    """Let a worker write the adapter's file into ``folder``; its name."""
    save_low_ranks(low_ranks, work / LOW_RANKS)
    payload = {
        "artifact": artifact_to_json(artifact),
        "low_ranks": str(work / LOW_RANKS),
        "folder": str(folder),
    }
    about = f"writes an adapter of {artifact.name}"
    name: str = subprocess_worker.call("slmkit.workflows.adapter:emit_job", payload, _quiet, about)
    return name


def emit_job(payload: dict[str, Any], report: Report) -> str:
    """In the worker: write the file."""
    artifact = artifact_from_json(payload["artifact"])
    low_ranks = load_low_ranks(Path(payload["low_ranks"]))
    return _taker(artifact.name).emit_adapter(artifact, low_ranks, Path(payload["folder"]))


def prove(
    proof: Proof,
    manifest: Manifest,
    artifact: BundledArtifact,
    checkpoint: Checkpoint,
    codes: CodesFile,
    low_ranks: Mapping[str, LowRank],
) -> tuple[tuple[Comparison, ...], float]:
    """Compare the artifact with ``proof.adapter`` with the reference with the adapter; and the
    adapter's effect in dB.

    Raises FailedAdapter, and RefusedError for an effect too small to see.
    """
    prompts = load_golden(proof.folder / artifact.golden).prompts()
    sequences, spec = proof.generate(artifact, prompts), checkpoint.spec
    about = spec, prompts, sequences, [artifact], proof.progress
    adapted = AdaptedCodes(codes, low_ranks)
    expected, alone = answers(adapted, *about), answers(codes, *about)
    golden = expected.exact
    effect = measure(golden.outputs, alone.exact.outputs, golden.decoded()).snr_db
    least = manifest.recipe.parity[LOWERING].snr_db or 0
    if effect > least - MARGIN_DB:
        raise RefusedError(
            f"the adapter changes the answers by {-effect:.0f} dB: less than parity could see "
            f"(bound {least:g} dB), so that nothing would be proved",
            "is it trained? an untrained adapter changes nothing",
        )
    found = tuple(proof.compare(expected, [artifact.name]))
    if not all(each.passed for each in found):
        raise FailedAdapter(found)
    return found, round(effect, 2)


def refuse_whole(adapter: Adapter) -> None:
    """Raise RefusedError for an adapter that is more than changes of low rank."""
    whole = [tensor for tensor, each in adapter.changes.items() if each.file is not None]
    why = ""
    if adapter.config.use_dora:
        why = "is a DoRA, whose magnitudes scale the base's weights too"
    elif whole:
        why = f"holds a whole {whole[0]}, which would take the base's place"
    elif adapter.is_zero:
        why = "changes nothing: all of its B are zero"
    if why:
        raise RefusedError(
            f"the adapter {adapter.name} cannot stand beside a base: it {why}", MERGE
        )


def _artifact(manifest: Manifest, name: str | None) -> BundledArtifact:
    """The one that is asked for, or the first that takes adapters. Raises RefusedError."""
    asked = [manifest.artifact(name)] if name else list(manifest.artifacts)
    for each in asked:
        if not declaration_of(each.name).no_adapters:
            return each
    reasons = [f"{each.name}: {declaration_of(each.name).no_adapters}" for each in asked]
    raise RefusedError(f"no adapter beside {'; '.join(reasons)}", MERGE)


def _checkpoint(bundle: Path, manifest: Manifest, model: Path | None) -> Checkpoint:
    if manifest.model.adapters:
        raise BundleError(
            f"{bundle} has an adapter merged into its weights", "build the base without --adapter"
        )
    try:
        return checkpoint_of(manifest, model or SAMPLE_MODEL)
    except BundleError:
        if model is not None:
            raise
        raise UsageError(
            f"{bundle} does not hold the weights that the reference needs",
            "name the checkpoint that it was built from with --model",
        ) from None


def _refuse(artifact: Artifact, names: list[str]) -> None:
    problems = _taker(artifact.name).adapter_problems(artifact, names)
    if problems:
        raise RefusedError("; ".join(problems), MERGE)


def _taker(artifact: str) -> TakesAdapters:
    backend = find_backend(artifact)
    if not isinstance(backend, TakesAdapters):
        raise RefusedError(f"the backend of {artifact} cannot write adapters", MERGE)
    return backend


def _quiet(done: int, total: int) -> None:
    """No progress: the file is small."""
