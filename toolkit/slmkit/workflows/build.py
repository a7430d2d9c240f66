"""The one road from a checkpoint to a bundle."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from slmkit import __version__
from slmkit.backend.interface import Artifact
from slmkit.backend.job import tokenizer_files
from slmkit.backend.registry import versions_of
from slmkit.bundle import manifest
from slmkit.bundle.folder import check_place, list_files, written
from slmkit.checkpoint.folder import Checkpoint
from slmkit.errors import ParityError
from slmkit.parity import metrics
from slmkit.parity.compare import Proof, answers, float_outputs, price
from slmkit.parity.golden import golden_prompts, save_golden
from slmkit.planning.emit import emit, payload_of
from slmkit.planning.plan import Encoding, Plan, Request, codes_of, make_plan
from slmkit.quant.codes import CodesFile
from slmkit.system.cache import Cache
from slmkit.system.progress import Progress

NO_DEVICE = "no phone was involved: every artifact ran on this computer's runtimes only"
TOKENIZER = "tokenizer"
Encoded = Mapping[Encoding, CodesFile]


@dataclass(frozen=True)
class Built:
    """A finished bundle and its parity report."""

    folder: Path
    lines: tuple[metrics.Line, ...]
    size: int


class FailedParity(ParityError):
    """A build whose artifacts broke a bound; carries the report."""

    def __init__(self, lines: Sequence[metrics.Line]) -> None:
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
        codes = {
            each: codes_of(plan.checkpoint, each.schemes, cache, progress)
            for each in plan.encodings
        }
        with written(plan.place, request.force) as folder:
            artifacts = _emit_all(plan, codes, folder, cache, progress)
            _copy_tokenizer(plan.checkpoint, folder / TOKENIZER)
            lines = _prove(plan, codes, artifacts, folder, Path(scratch), progress)
            manifest.write_manifest(_manifest(plan, artifacts, lines, folder), folder)
        cache.prune()
    size = sum(file.size for file in manifest.read_manifest(plan.place).files)
    return Built(plan.place, lines, size)


def _emit_all(
    plan: Plan, codes: Encoded, folder: Path, cache: Cache, progress: Progress
) -> dict[str, Artifact]:
    artifacts = {}
    for name in plan.artifacts:
        (folder / name).mkdir()
        own = codes[plan.encoding(name)]
        job = payload_of(
            name,
            plan.checkpoint,
            own,
            plan.recipe,
            plan.context_length,
            plan.calibration,
            plan.platform.name,
        )
        artifacts[name] = emit(job, plan.checkpoint, own, folder / name, cache, progress)
    return artifacts


def _copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    for path in tokenizer_files(checkpoint.folder):
        shutil.copyfile(path, folder / path.name)


def _prove(
    plan: Plan,
    codes: Encoded,
    artifacts: Mapping[str, Artifact],
    folder: Path,
    scratch: Path,
    progress: Progress,
) -> tuple[metrics.Line, ...]:
    """Both errors of every artifact in every mode; keeps the golden; raises on a broken bound."""
    checkpoint, bounds = plan.checkpoint, plan.recipe.parity
    prompts = golden_prompts(
        checkpoint.tokenizer, checkpoint.spec, plan.context_length, plan.parameters
    )
    proof = Proof(folder, artifacts, bounds, scratch, progress)
    sequences = proof.generate(prompts)
    floats = float_outputs(checkpoint, sequences, progress)
    lines, prices = [], []
    for each in plan.encodings:
        holders = [artifacts[name] for name in each.artifacts]
        expected = answers(codes[each], checkpoint.spec, prompts, sequences, holders, progress)
        golden = expected.exact
        lines += proof.lines(expected, each.artifacts)
        prices.append(price(each.name, floats, golden, bounds))
        (folder / each.golden).parent.mkdir(exist_ok=True)
        save_golden(golden.reduced(), folder / each.golden)
    if any(line.failures for line in (*lines, *prices)):
        raise FailedParity((*lines, *prices))
    return (*lines, *prices)


def _manifest(
    plan: Plan, artifacts: Mapping[str, Artifact], lines: Sequence[metrics.Line], folder: Path
) -> manifest.Manifest:
    return manifest.Manifest(
        slmkit=__version__,
        target=plan.platform.name,
        model=_model(plan),
        recipe=plan.recipe,
        context_length=plan.context_length,
        tokenizer=TOKENIZER,
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
            "golden": plan.encoding(artifact.name).golden,
            "memory": {
                "weights": planned.weights,
                "kv_cache": planned.kv_cache,
                "working": planned.working,
                "total": planned.total,
            },
            "libraries": versions_of(artifact.name),
        }
    )
