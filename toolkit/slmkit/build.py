"""The one road from a checkpoint to a bundle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from slmkit import __version__, manifest, memory, parity
from slmkit.bundle import check_place, list_files, written
from slmkit.cache import Cache, key_of
from slmkit.calibration import calibration_texts
from slmkit.checkpoint.folder import Checkpoint, open_checkpoint
from slmkit.emit import emit, payload_of, tokenizer_files
from slmkit.errors import ParityError, RecipeError, SlmkitError
from slmkit.golden import golden_prompts, save_golden
from slmkit.platforms import Platform, find_platform, known_artifacts
from slmkit.progress import Progress
from slmkit.proof import Proof, quantization_line, reference_golden
from slmkit.quant.apply import VERSION as QUANT_VERSION
from slmkit.quant.apply import quantize
from slmkit.quant.codes import CodesFile
from slmkit.recipe import Recipe, Scheme, load_recipe
from slmkit.record import listen, record
from slmkit.target import Artifact, find_backend, versions_of

NO_DEVICE = "no phone was involved: every artifact ran on this computer's runtimes only"
CHIPS = "hexagon"  # the artifact that --soc is for
TOKENIZER, GOLDEN = "tokenizer", "parity/golden.safetensors"


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    model: Path
    target: str
    recipe: str
    out: Path = Path("dist")
    context: int | None = None
    memory_limit: int | None = None  # bytes
    artifacts: tuple[str, ...] = ()
    socs: tuple[str, ...] = ()  # chips to compile for; empty: the recipe's, or the backend's
    calibration: Path | None = None  # text to listen to; None: the checkpoint's own, or ours
    force: bool = False
    cache: Path | None = None  # None: no cache


@dataclass(frozen=True)
class Plan:
    """Everything decided before anything is written."""

    checkpoint: Checkpoint
    platform: Platform
    recipe: Recipe
    schemes: Mapping[str, Scheme]
    artifacts: tuple[str, ...]
    context_length: int
    memory: Mapping[str, memory.MemoryPlan]  # by artifact
    parameters: int
    calibration: tuple[tuple[int, ...], ...]  # texts as token ids
    place: Path


@dataclass(frozen=True)
class Built:
    """A finished bundle and its parity report."""

    folder: Path
    lines: tuple[parity.Line, ...]
    size: int


class FailedParity(ParityError):
    """A build whose artifacts broke a bound; carries the report."""

    def __init__(self, lines: Sequence[parity.Line]) -> None:
        reasons = [f"{line.artifact} {line.mode}: {why}" for line in lines for why in line.failures]
        super().__init__(
            f"parity failed, no bundle was written: {'; '.join(reasons)}",
            "an error in lowering is a bug of slmkit: please report it; a quantization error is "
            "the recipe's price: choose a finer recipe or its bound",
        )
        self.lines = tuple(lines)


def build(request: Request, progress: Progress) -> Built:
    """Plan, quantize, emit, prove, and put the bundle in its place."""
    plan = make_plan(request)
    check_place(plan.place, request.force)
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        cache = Cache(request.cache or Path(scratch) / "cache")
        codes = codes_of(plan.checkpoint, plan.schemes, cache, progress)
        with written(plan.place, request.force) as folder:
            artifacts = _emit_all(plan, codes, folder, cache, progress)
            _copy_tokenizer(plan.checkpoint, folder / TOKENIZER)
            lines = _prove(plan, codes, artifacts, folder, Path(scratch), progress)
            manifest.write_manifest(_manifest(plan, artifacts, lines, folder), folder)
        cache.prune()
    size = sum(file.size for file in manifest.read_manifest(plan.place).files)
    return Built(plan.place, lines, size)


def make_plan(request: Request) -> Plan:
    """Check everything that can be checked before work begins. Raises SlmkitError."""
    platform = find_platform(request.target)
    recipe = with_socs(load_recipe(request.recipe), request.socs)
    checkpoint = open_checkpoint(request.model)
    spec = checkpoint.spec
    place = request.out / f"{checkpoint.name}-{platform.name}-{recipe.name}"
    artifacts = _chosen(platform, request.artifacts)
    if request.socs and CHIPS not in artifacts:
        raise SlmkitError(
            f"--soc is for the artifact {CHIPS}, which this build does not write",
            f"it writes: {', '.join(artifacts)}",
        )
    schemes = memory.matrix_schemes(spec, recipe)
    _refuse_problems(checkpoint, recipe, schemes, artifacts)
    context_length = memory.default_context(spec, recipe, request.context)
    limit = request.memory_limit or platform.memory_limit
    plans = {
        name: memory.check(spec, recipe, context_length, limit, costs_of(name))
        for name in artifacts
    }
    texts = calibration_texts(checkpoint, request.calibration)
    return Plan(
        checkpoint, platform, recipe, schemes, artifacts, context_length, plans,
        listen(spec).parameters, texts, place,
    )  # fmt: skip


def costs_of(artifact: str) -> memory.Costs:
    """What numbers take in the memory of an artifact's runtime."""
    backend = find_backend(artifact)
    return memory.Costs(backend.weight_bytes, backend.KV_BYTES)


def with_socs(recipe: Recipe, socs: tuple[str, ...]) -> Recipe:
    """The recipe, compiled for other chips."""
    if not socs:
        return recipe
    options = {**recipe.artifacts.get(CHIPS, {}), "soc": list(socs)}
    return recipe.model_copy(update={"artifacts": {**recipe.artifacts, CHIPS: options}})


def codes_of(
    checkpoint: Checkpoint, schemes: Mapping[str, Scheme], cache: Cache, progress: Progress
) -> CodesFile:
    """The checkpoint's codes under a recipe: out of the cache, or quantized now."""
    weights = record(checkpoint.spec).weights
    facts = {name: scheme.model_dump() for name, scheme in schemes.items()}
    key = key_of([checkpoint.shards.fingerprint, facts, QUANT_VERSION])
    numbers = sum(weight.size for weight in weights.values() if len(weight.shape) == 2)
    progress.stage("quantize", numbers)
    entry = cache.find("codes", key)
    if entry is None:
        with cache.making("codes", key) as making:
            quantize(
                checkpoint.shards, weights, schemes, making / "codes.safetensors", key,
                progress.advance,
            )  # fmt: skip
        entry = cache.find("codes", key)
    else:
        progress.advance(numbers)
    if entry is None:
        raise SlmkitError(f"the cache {cache.folder} lost an entry", "is its disk full?")
    return CodesFile(entry / "codes.safetensors")


def _chosen(platform: Platform, asked: tuple[str, ...]) -> tuple[str, ...]:
    for name in asked:
        if name not in platform.artifacts:
            raise SlmkitError(
                f"the target {platform.name} has no artifact {name!r}",
                f"it has: {', '.join(platform.artifacts)}",
            )
    return asked or platform.artifacts


def _refuse_problems(
    checkpoint: Checkpoint, recipe: Recipe, schemes: Mapping[str, Scheme], artifacts: Sequence[str]
) -> None:
    """All that the backends cannot do, at once, before anything is emitted."""
    model = listen(checkpoint.spec)
    unknown = set(recipe.artifacts) - known_artifacts()
    problems = [f"artifacts.{name}: there is no such artifact" for name in sorted(unknown)]
    for name in artifacts:
        options = recipe.artifacts.get(name, {})
        problems += find_backend(name).problems(model, schemes, options)
    if problems:
        raise RecipeError(
            f"recipe {recipe.name}: {'; '.join(problems)}",
            "recipes/README.md explains every key; --artifacts leaves an artifact out",
        )


def _emit_all(
    plan: Plan, codes: CodesFile, folder: Path, cache: Cache, progress: Progress
) -> dict[str, Artifact]:
    artifacts = {}
    for name in plan.artifacts:
        (folder / name).mkdir()
        job = payload_of(
            name, plan.checkpoint, codes, plan.recipe, plan.context_length, plan.calibration
        )
        artifacts[name] = emit(job, plan.checkpoint, codes, folder / name, cache, progress)
    return artifacts


def _copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    for path in tokenizer_files(checkpoint.folder):
        shutil.copyfile(path, folder / path.name)


def _prove(
    plan: Plan, codes: CodesFile, artifacts: Mapping[str, Artifact], folder: Path, scratch: Path,
    progress: Progress,
) -> tuple[parity.Line, ...]:  # fmt: skip
    """Both errors of every artifact in every mode; keeps the golden; raises on a broken bound."""
    checkpoint, bounds = plan.checkpoint, plan.recipe.parity
    prompts = golden_prompts(
        checkpoint.tokenizer, checkpoint.spec, plan.context_length, plan.parameters
    )
    proof = Proof(folder, artifacts, bounds, scratch, progress)
    sequences = proof.generate(prompts)
    golden = reference_golden(codes, checkpoint.spec, prompts, sequences, progress)
    price = quantization_line(checkpoint, golden, bounds, progress)
    lines = (*proof.lines(golden), price)
    if any(line.failures for line in lines):
        raise FailedParity(lines)
    (folder / GOLDEN).parent.mkdir()
    save_golden(golden.reduced(), folder / GOLDEN)
    return lines


def _manifest(
    plan: Plan, artifacts: Mapping[str, Artifact], lines: Sequence[parity.Line], folder: Path
) -> manifest.Manifest:
    return manifest.Manifest(
        slmkit=__version__,
        target=plan.platform.name,
        model=_model(plan),
        recipe=plan.recipe,
        context_length=plan.context_length,
        tokenizer=TOKENIZER,
        golden=GOLDEN,
        stop_ids=plan.checkpoint.tokenizer.stop_ids,
        artifacts=tuple(_artifact(plan, artifact) for artifact in artifacts.values()),
        parity=tuple(manifest.Parity.model_validate(line.as_json()) for line in lines),
        not_executed=(NO_DEVICE, *_not_executed(artifacts)),
        files=list_files(folder),
    )


def _not_executed(artifacts: Mapping[str, Artifact]) -> list[str]:
    """What the backends say that no runtime here could run."""
    return [why for each in artifacts.values() for why in each.facts.get("not_executed", ())]


def _model(plan: Plan) -> manifest.Model:
    spec = plan.checkpoint.spec
    return manifest.Model(
        name=plan.checkpoint.name,
        model_type=spec.model_type,
        parameters=plan.parameters,
        num_hidden_layers=spec.layers,
        hidden_size=spec.width,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_width,
        vocab_size=spec.vocabulary,
        tied=spec.tied,
        trained_context=spec.trained_context,
        checkpoint_sha256=plan.checkpoint.shards.fingerprint,
    )


def _artifact(plan: Plan, artifact: Artifact) -> manifest.Artifact:
    planned = plan.memory[artifact.name]
    return manifest.Artifact.model_validate(
        {
            **asdict(artifact),
            "folder": artifact.name,
            "memory": {
                "weights": planned.weights, "kv_cache": planned.kv_cache,
                "working": planned.working, "total": planned.total,
            },
            "libraries": versions_of(artifact.name),
        }
    )  # fmt: skip
