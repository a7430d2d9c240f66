"""Build a bundle: plan, quantize, emit, prove, put it in its place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from slmkit import __version__
from slmkit.activations.observe import save_runs
from slmkit.backend.artifact import Artifact
from slmkit.backend.job import tokenizer_files
from slmkit.backend.registry import versions_of
from slmkit.bundle.folder import beside, check_place, written
from slmkit.bundle.manifest import (
    BundledArtifact,
    Manifest,
    ModelFacts,
    read_manifest,
    write_manifest,
)
from slmkit.bundle.pages import use_page
from slmkit.bundle.report.pages import html_report, markdown_report
from slmkit.bundle.roles import REPORT, SUMMARY, USE, set_apart, with_roles
from slmkit.bundle.verify import list_files
from slmkit.checkpoint.folder import Checkpoint
from slmkit.checkpoint.named_templates import MORE, additional_templates
from slmkit.errors import ParityError
from slmkit.evaluation.gate import Quality
from slmkit.parity.compare import Proof, answers, float_outputs, quantization_cost
from slmkit.parity.crossing import Crossing, crossing_of
from slmkit.parity.golden import golden_prompts
from slmkit.parity.golden_file import save_golden
from slmkit.parity.metrics import Comparison, failures_of
from slmkit.parity.prompts import PromptComparison, compare_prompts, failures_of_prompts
from slmkit.planning.calibration_report import calibration_report
from slmkit.planning.emit import describe_job, emit
from slmkit.planning.imports import import_sentences
from slmkit.planning.kept_codes import kept_codes
from slmkit.planning.plan import Encoding, Plan, Request, make_plan
from slmkit.quant.codes import CodesFile
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.system.cache import Cache
from slmkit.system.progress import Progress
from slmkit.workflows.codes import CALIBRATION, Quantized, quantized
from slmkit.workflows.quality import TEXT, Gate, open_gate
from slmkit.workflows.sensitivity import with_budget

NO_DEVICE = "no phone was involved: every artifact ran on this computer's runtimes only"
TOKENIZER = "tokenizer"
Codes = Mapping[Encoding, CodesFile]
Comparisons = tuple[Comparison, ...]


@dataclass(frozen=True)
class Built:
    """A finished bundle."""

    folder: Path
    manifest: Manifest


class FailedParity(ParityError):
    """A build whose codes or artifacts broke a bound; carries the report."""

    def __init__(
        self,
        comparisons: Comparisons,
        quality: Quality | None = None,
        prompts: tuple[PromptComparison, ...] = (),
    ) -> None:
        broken = [
            *failures_of(comparisons),
            *(quality.failures if quality else ()),
            *failures_of_prompts(prompts),
        ]
        super().__init__(
            f"parity failed, no bundle was written: {'; '.join(broken)}",
            "an error in lowering is a bug of slmkit: please report it; a quantization error is "
            "the recipe's cost: choose a finer recipe or its bound"
            if not failures_of_prompts(prompts)
            else "write the chat template in simpler Jinja, or leave the artifact out: --artifacts",
        )
        self.comparisons = comparisons
        self.quality = quality
        self.prompts = prompts


def build(request: Request, progress: Progress) -> Built:
    """Plan, quantize, emit, prove, and put the bundle in its place. Raises SlmkitError."""
    plan = make_plan(request)
    check_place(plan.place, request.force)
    with beside(plan.place) as work:
        cache = Cache(request.cache or work / "cache")
        plan = _with_budget(plan, request, cache, progress)
        gate = open_gate(plan.checkpoint, plan.choice.recipe, plan.held_out, work, progress)
        made = quantized(plan, plan.choice.encodings, cache, progress, gate.trained)
        _pass_codes(plan, made.codes, gate, progress)
        plan = plan.with_recipe(gate.recipe)
        with written(plan.place, request.force) as folder:
            artifacts = _emit_all(plan, made.codes, folder, cache, progress)
            _copy_tokenizer(plan.checkpoint, folder / TOKENIZER)
            prompts = _prove_prompts(plan, artifacts, folder, progress)
            save_runs(made.runs, folder / CALIBRATION)
            save_runs(plan.held_out.sequences, folder / TEXT)
            crossing, missed = _crossing(plan)
            bounds = gate.recipe.parity
            proof = Proof(folder, artifacts, bounds, work, progress, gate.file, crossing)
            comparisons = _prove(plan, made.codes, proof, gate, progress)
            proven = comparisons, gate.quality(proof)
            manifest = _manifest(plan, artifacts, *proven, made, missed, folder)
            _finish(manifest.model_copy(update={"prompts": prompts}), folder, plan.place.name)
        cache.prune()
    return Built(plan.place, read_manifest(plan.place))


def _with_budget(plan: Plan, request: Request, cache: Cache, progress: Progress) -> Plan:
    """The plan of a recipe whose budget of bits is spent by measurement; ``plan`` estimates it."""
    asked = request.recipe
    recipe = asked if isinstance(asked, Recipe) else load_recipe(asked)
    if recipe.bits_budget is None:
        return plan
    recipe = with_budget(plan.checkpoint, recipe, plan.calibration, cache, progress)
    return make_plan(replace(request, recipe=recipe))


def _pass_codes(plan: Plan, codes: Codes, gate: Gate, progress: Progress) -> None:
    """Measure all codes on held-out text, before anything is made of them. Raises FailedParity."""
    for each in plan.choice.encodings:
        gate.measure_codes(each.name, each.artifacts, codes[each], plan.checkpoint, progress)
    found = gate.quality()
    if not found.passed:
        raise FailedParity((), found)


def _emit_all(
    plan: Plan, codes: Codes, folder: Path, cache: Cache, progress: Progress
) -> dict[str, Artifact]:
    choice, artifacts = plan.choice, {}
    for name in choice.artifacts:
        (folder / name).mkdir()
        own = codes[choice.encoding(name)]
        job = describe_job(
            name,
            plan.checkpoint,
            own,
            choice.recipe,
            choice.context_length,
            plan.calibration,
            choice.target.name,
            plan.chat_template,
        )
        artifacts[name] = emit(job, plan.checkpoint, own, folder / name, cache, progress)
        set_apart(folder, artifacts[name])
    return artifacts


def _crossing(plan: Plan) -> tuple[Crossing, str]:
    """The text as long as the context, and what it does not reach."""
    choice = plan.choice
    texts, spec, chunk = plan.held_out.sequences, plan.checkpoint.spec, choice.recipe.prefill_chunk
    return crossing_of(texts, spec, choice.context_length, chunk, choice.model.parameters)


def _copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    folder.mkdir()
    for path in tokenizer_files(checkpoint.folder):
        shutil.copyfile(path, folder / path.name)
    if additional_templates(checkpoint.folder):
        shutil.copytree(checkpoint.folder / MORE, folder / MORE)


def _prove_prompts(
    plan: Plan, artifacts: Mapping[str, Artifact], folder: Path, progress: Progress
) -> tuple[PromptComparison, ...]:
    """Compare the prompts of every artifact's runtime, before the slower proof. Raises
    FailedParity."""
    tokenizer, name = folder / TOKENIZER, plan.chat_template
    found = compare_prompts(folder, artifacts.values(), tokenizer, name, progress)
    if failures_of_prompts(found):
        raise FailedParity((), None, found)
    return found


def _prove(plan: Plan, codes: Codes, proof: Proof, gate: Gate, progress: Progress) -> Comparisons:
    """Compare every artifact in every mode; keep the golden answers. Raises FailedParity."""
    checkpoint, choice, folder = plan.checkpoint, plan.choice, proof.folder
    prompts = golden_prompts(
        checkpoint.tokenizer, checkpoint.spec, choice.context_length, choice.model.parameters
    )
    sequences = proof.generate(prompts)
    floats = float_outputs(checkpoint, sequences, progress)
    comparisons, costs = [], []
    for each in choice.encodings:
        holders = [proof.artifacts[name] for name in each.artifacts]
        expected = answers(
            codes[each], checkpoint.spec, prompts, sequences, holders, progress, proof.crossing
        )
        golden = expected.exact
        comparisons += proof.compare(expected, each.artifacts)
        costs.append(quantization_cost(each.name, floats, golden, proof.bounds))
        (folder / each.golden).parent.mkdir(exist_ok=True)
        save_golden(golden.reduced(), folder / each.golden)
    found, quality = (*comparisons, *costs), gate.quality(proof)
    if not quality.passed or not all(each.passed for each in found):
        raise FailedParity(found, quality)
    return found


def _manifest(
    plan: Plan,
    artifacts: Mapping[str, Artifact],
    comparisons: Comparisons,
    quality: Quality,
    made: Quantized,
    missed: str,
    folder: Path,
) -> Manifest:
    choice, tokens = plan.choice, sum(map(len, made.runs))
    reports = [calibration_report(each.name, made.codes[each], tokens) for each in choice.encodings]
    unrun = [why for each in artifacts.values() for why in each.report.not_executed]
    unrun += [missed] if missed else []
    bundled = tuple(_bundled(plan, artifact) for artifact in artifacts.values())
    return Manifest(
        slmkit=__version__,
        target=choice.target.name,
        model=_model_facts(plan),
        recipe=choice.recipe,
        context_length=choice.context_length,
        stream_scale=made.prepared.stream_scale,
        tokenizer=TOKENIZER,
        chat_template=plan.chat_template,
        stop_ids=plan.checkpoint.tokenizer.stop_ids,
        generation=plan.checkpoint.tokenizer.author.settings,
        artifacts=bundled,
        parity=comparisons,
        quality=quality,
        calibration=tuple(each for each in reports if each is not None),
        notices=(*plan.checkpoint.notices, *import_sentences(plan.imports), *_prices(plan, made)),
        not_executed=(NO_DEVICE, *unrun, *quality.not_executed),
        files=with_roles(list_files(folder), bundled, TOKENIZER),
    )


def _prices(plan: Plan, made: Quantized) -> list[str]:
    """The price of codes that are kept with rounded scales, a sentence for each encoding."""
    shards, found = plan.checkpoint.shards, []
    for each, codes in made.codes.items() if plan.imports else ():
        facts = shards.imports, shards.rounded, made.prepared
        kept = kept_codes(plan.checkpoint, codes, *facts)
        if kept is not None:
            found.append(kept.sentence(", ".join(each.artifacts)))
    return found


def _finish(manifest: Manifest, folder: Path, name: str) -> None:
    """Write the pages for people, and the manifest, which lists them too."""
    pages = {
        USE: use_page(manifest, name),
        REPORT: html_report(manifest, name),
        SUMMARY: markdown_report(manifest, name),
    }
    for path, text in pages.items():
        (folder / path).write_text(text, encoding="utf-8")
    files = with_roles(list_files(folder), manifest.artifacts, manifest.tokenizer)
    write_manifest(manifest.model_copy(update={"files": files}), folder)


def _model_facts(plan: Plan) -> ModelFacts:
    spec = plan.checkpoint.spec
    return ModelFacts(
        name=plan.checkpoint.name,
        model_type=spec.model_type,
        parameters=plan.choice.model.parameters,
        num_hidden_layers=spec.layers,
        hidden_size=spec.width,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_width,
        vocab_size=spec.vocabulary,
        tied=spec.tied,
        trained_context=spec.trained_context,
        checkpoint_sha256=plan.checkpoint.shards.base_fingerprint,
        adapters=plan.checkpoint.shards.adapters,
    )


def _bundled(plan: Plan, artifact: Artifact) -> BundledArtifact:
    own = {name: getattr(artifact, name) for name in Artifact.__dataclass_fields__}
    return BundledArtifact(
        **own,
        folder=artifact.name,
        golden=plan.choice.encoding(artifact.name).golden,
        memory=plan.memory[artifact.name],
        libraries=versions_of(artifact.name),
    )
