"""Build a bundle: plan, quantize, emit, prove, put it in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from slmkit.activations.observe import save_runs
from slmkit.backend.artifact import Artifact
from slmkit.backend.registry import declaration_of
from slmkit.bundle.compose import TOKENIZER, Codes, compose, copy_tokenizer, finish
from slmkit.bundle.folder import beside, check_place, keep_failed, written
from slmkit.bundle.manifest import Manifest, read_manifest
from slmkit.bundle.report.details import details_of, save_details
from slmkit.bundle.roles import set_apart
from slmkit.errors import ParityError
from slmkit.evaluation.gate import Quality
from slmkit.parity.crossing import Crossing, crossing_of
from slmkit.parity.golden import golden_prompts
from slmkit.parity.metrics import Comparison, failures_of
from slmkit.parity.prompts import PromptComparison, compare_prompts, failures_of_prompts
from slmkit.parity.proof import Proof, run_labels
from slmkit.parity.prove import Proving
from slmkit.planning.durations import Durations, expected_stages
from slmkit.planning.emit import describe_job, emit
from slmkit.planning.plan import Plan, Request, make_plan
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.system.cache import Cache
from slmkit.system.jobs import Job, run_jobs
from slmkit.system.ledger import Ledger
from slmkit.system.progress import Progress
from slmkit.workflows.codes import CALIBRATION, quantized
from slmkit.workflows.quality import TEXT, Gate, open_gate
from slmkit.workflows.sensitivity import with_budget

Comparisons = tuple[Comparison, ...]
BEFORE_RUNS = 1e9  # seconds: more than any run takes


@dataclass(frozen=True)
class Built:
    """A finished bundle."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class Found:
    """Everything that was measured of a build's codes and artifacts."""

    comparisons: Comparisons = ()
    quality: Quality | None = None
    prompts: tuple[PromptComparison, ...] = ()

    @property
    def failures(self) -> list[str]:
        """All broken bounds, one sentence each."""
        return [
            *failures_of(self.comparisons),
            *(self.quality.failures if self.quality else ()),
            *failures_of_prompts(self.prompts),
        ]


class FailedParity(ParityError):
    """A build whose codes or artifacts broke a bound; carries the report."""

    def __init__(self, found: Found, kept: Path | None = None) -> None:
        where = f"the failed bundle is in {kept}" if kept else "no bundle was written"
        super().__init__(
            f"parity failed, {where}: {'; '.join(found.failures)}",
            "an error in lowering is a bug of slmkit: please report it; a quantization error is "
            "the recipe's cost: choose a finer recipe or its bound"
            if not failures_of_prompts(found.prompts)
            else "write the chat template in simpler Jinja, or leave the artifact out: --artifacts",
        )
        self.comparisons = found.comparisons
        self.quality = found.quality
        self.prompts = found.prompts


def build(request: Request, progress: Progress) -> Built:
    """Plan, quantize, emit, prove, and put the bundle in its place. Raises SlmkitError."""
    plan = make_plan(request)
    check_place(plan.place, request.force)
    with beside(plan.place) as work:
        cache = Cache(request.cache or work / "cache")
        making = _Making(request, plan, cache, work, Ledger(progress))
        making.expect(expected_stages(plan))
        place = making.make()
        making.durations.remember(making.progress.costs, making.parameters)
        cache.prune()
    return Built(place, read_manifest(place))


@dataclass
class _Making:
    """One build: what its steps share."""

    request: Request
    plan: Plan
    cache: Cache
    work: Path  # a folder for intermediate files
    progress: Ledger
    durations: Durations = field(init=False)
    seconds: dict[str, float] = field(default_factory=dict)  # of stages by label, by forecast

    def __post_init__(self) -> None:
        self.durations = Durations(self.cache.folder)

    @property
    def parameters(self) -> int:
        """Of the model."""
        return self.plan.choice.model.parameters

    def expect(self, labels: list[str]) -> None:
        """Announce stages, with the time that they will take."""
        self.seconds |= self.durations.of(labels, self.parameters)
        self.progress.expect(self.seconds)

    def make(self) -> Path:
        """All steps; the bundle's place."""
        self.plan = _with_budget(self.plan, self.request, self.cache, self.progress)
        plan, progress = self.plan, self.progress
        about = plan.checkpoint, plan.choice.recipe, plan.held_out
        gate = open_gate(*about, self.work, progress, self.cache)
        made = quantized(plan, plan.choice.encodings, self.cache, progress, gate.trained)
        _pass_codes(plan, made.codes, gate, progress)
        self.plan = plan = plan.with_recipe(gate.recipe)
        with written(plan.place, self.request.force) as folder:
            crossing, missed = _crossing(plan)
            proving = self._proving(made.codes, folder, gate, crossing)
            copy_tokenizer(plan.checkpoint, folder / TOKENIZER)
            save_runs(made.runs, folder / CALIBRATION)
            save_runs(plan.held_out.sequences, folder / TEXT)
            artifacts, prompts = self._emit_and_run(made.codes, folder, proving)
            found = self._judge(proving, artifacts, prompts, gate)
            manifest = compose(plan, artifacts, made.runs, made.prepared, made.codes, folder)
            progress.end()
            self._finish(manifest, found, missed, folder)
        return plan.place

    def _emit_and_run(
        self, codes: Codes, folder: Path, proving: Proving
    ) -> tuple[dict[str, Artifact], tuple[PromptComparison, ...]]:
        """Every artifact, several side by side, and their prompts. Each runs for the proof from
        when it is written on, unless an app's prompts would be wrong."""
        names = self.plan.choice.artifacts
        prompts: dict[str, PromptComparison] = {}

        def write(name: str, progress: Progress) -> Artifact:
            artifact = self._emit(name, codes, folder, progress)
            about = folder / TOKENIZER, self.plan.chat_template, progress
            (prompts[name],) = compare_prompts(folder, [artifact], *about)
            if name == names[0] and not failures_of_prompts(prompts.values()):
                proving.begin(artifact, progress)
            return artifact

        def runs(artifact: Artifact) -> Sequence[Job[None]]:
            if failures_of_prompts(prompts.values()):
                return ()
            labels = run_labels([artifact])
            self.expect([label for label in labels if not self._ran(label)])
            return proving.jobs(artifact)

        jobs = [
            Job(partial(write, name), self._memory(name), self._urgency(name), runs)
            for name in names
        ]
        made = run_jobs(jobs, self.request.limits, self.progress)
        return dict(zip(names, made, strict=True)), tuple(prompts[name] for name in names)

    def _memory(self, name: str) -> int:
        """Bytes that writing an artifact takes; the first one runs, to continue the prompts."""
        declared, first = declaration_of(name), name == self.plan.choice.artifacts[0]
        needed = declared.emitting.of(self.parameters)
        return max(needed, declared.running.of(self.parameters)) if first else needed

    def _urgency(self, name: str) -> float:
        """Every run waits for the first artifact, and each artifact's own for it: the longest of
        the others comes next, and runs after all of them."""
        if name == self.plan.choice.artifacts[0]:
            return math.inf
        return BEFORE_RUNS + self.durations.of_artifact(name, self.parameters)

    def _emit(self, name: str, codes: Codes, folder: Path, progress: Progress) -> Artifact:
        plan, choice = self.plan, self.plan.choice
        own = codes[choice.encoding(name)]
        (folder / name).mkdir()
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
        artifact = emit(job, plan.checkpoint, own, folder / name, self.cache, progress)
        set_apart(folder, artifact)
        return artifact

    def _proving(
        self, codes: Codes, folder: Path, gate: Gate, crossing: Crossing | None
    ) -> Proving:
        """The proof of the artifacts that are going to be in ``folder``."""
        plan, about = self.plan, self.plan.checkpoint
        proof = Proof(
            folder,
            {},
            gate.recipe.parity,
            self.work,
            self.progress,
            gate.file,
            crossing,
            cache=self.cache.folder,
            limits=self.request.limits,
            parameters=self.parameters,
            seconds=self.seconds,
        )
        context = plan.choice.context_length
        prompts = golden_prompts(about.tokenizer, about.spec, context, self.parameters)
        return Proving(about, codes, proof, self.cache, self.progress, prompts)

    def _judge(
        self,
        proving: Proving,
        artifacts: Mapping[str, Artifact],
        prompts: tuple[PromptComparison, ...],
        gate: Gate,
    ) -> Found:
        """Compare what every artifact answered; keep golden answers and details."""
        plan, proof = self.plan, proving.proof
        proof.artifacts = artifacts
        if failures_of_prompts(prompts):  # not all have run
            return Found(prompts=prompts)
        proved = proving.compare()
        details = details_of(proved.first_prompt, plan.checkpoint.tokenizer, proving.codes)
        save_details(details, proof.folder)
        return Found(proved.comparisons, gate.quality(proof), prompts)

    def _ran(self, label: str) -> bool:
        """Whether a stage has ended."""
        return any(each.label == label for each in self.progress.costs)

    def _finish(self, manifest: Manifest, found: Found, missed: str, folder: Path) -> None:
        """Write the manifest and pages. Raises FailedParity for a bundle that broke a bound."""
        unrun = (missed,) if missed else ()
        more = found.quality.not_executed if found.quality else ()
        manifest = manifest.model_copy(
            update={
                "parity": found.comparisons,
                "prompts": found.prompts,
                "quality": found.quality,
                "not_executed": (*manifest.not_executed, *unrun, *more),
                "stages": self.progress.costs,
                "failures": tuple(found.failures),
            }
        )
        if found.failures and not self.request.keep_failed:
            raise FailedParity(found)
        finish(manifest, folder, self.plan.place.name)
        if found.failures:
            raise FailedParity(found, keep_failed(folder, self.plan.place))


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
    found = Found(quality=gate.quality())
    if found.failures:
        raise FailedParity(found)


def _crossing(plan: Plan) -> tuple[Crossing, str]:
    """The text as long as the context, and what it does not reach."""
    choice = plan.choice
    texts, spec, chunk = plan.held_out.sequences, plan.checkpoint.spec, choice.recipe.prefill_chunk
    return crossing_of(texts, spec, choice.context_length, chunk, choice.model.parameters)
