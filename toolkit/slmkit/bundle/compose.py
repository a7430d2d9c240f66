"""The manifest of a build, and the pages that are written from it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from slmkit import __version__
from slmkit.activations.observe import Runs
from slmkit.backend.artifact import Artifact
from slmkit.backend.job import tokenizer_files
from slmkit.backend.registry import versions_of
from slmkit.bundle.manifest import (
    BundledArtifact,
    Manifest,
    ModelFacts,
    write_manifest,
)
from slmkit.bundle.pages import use_page
from slmkit.bundle.report.details import read_details
from slmkit.bundle.report.pages import html_report, markdown_report
from slmkit.bundle.roles import REPORT, SUMMARY, USE, with_roles
from slmkit.bundle.verify import list_files
from slmkit.checkpoint.folder import Checkpoint
from slmkit.checkpoint.named_templates import MORE, additional_templates
from slmkit.planning.calibration_report import calibration_report
from slmkit.planning.forecast import work_of
from slmkit.planning.imports import import_sentences
from slmkit.planning.kept_codes import kept_codes
from slmkit.planning.plan import Encoding, Plan, costs_of
from slmkit.planning.prepare import Preparation
from slmkit.quant.codes import CodesFile

NO_DEVICE = "no phone was involved: every artifact ran on this computer's runtimes only"
TOKENIZER = "tokenizer"  # the folder in a bundle
Codes = Mapping[Encoding, CodesFile]


def compose(
    plan: Plan,
    artifacts: Mapping[str, Artifact],
    runs: Runs,
    prepared: Preparation,
    codes: Codes,
    folder: Path,
) -> Manifest:
    """The manifest of a bundle in ``folder``, without what its proof found.

    ``runs``: the calibration text; ``prepared``: the factors on the weights; ``codes``: by
    encoding.
    """
    choice, tokens = plan.choice, sum(map(len, runs))
    reports = [calibration_report(each.name, codes[each], tokens) for each in choice.encodings]
    unrun = [why for each in artifacts.values() for why in each.report.not_executed]
    bundled = tuple(_bundled(plan, artifact) for artifact in artifacts.values())
    return Manifest(
        slmkit=__version__,
        target=choice.target.name,
        model=_model_facts(plan),
        recipe=choice.recipe,
        context_length=choice.context_length,
        stream_scale=prepared.stream_scale,
        tokenizer=TOKENIZER,
        chat_template=plan.chat_template,
        stop_ids=plan.checkpoint.tokenizer.stop_ids,
        generation=plan.checkpoint.tokenizer.author.settings,
        artifacts=bundled,
        parity=(),
        calibration=tuple(each for each in reports if each is not None),
        notices=(
            *plan.checkpoint.notices,
            *import_sentences(plan.imports),
            *_prices(plan, prepared, codes),
        ),
        not_executed=(NO_DEVICE, *unrun),
        files=with_roles(list_files(folder), bundled, TOKENIZER),
    )


def _prices(plan: Plan, prepared: Preparation, codes: Codes) -> list[str]:
    """The price of codes that are kept with rounded scales, a sentence for each encoding."""
    shards, found = plan.checkpoint.shards, []
    for each, own in codes.items() if plan.imports else ():
        kept = kept_codes(plan.checkpoint, own, shards.imports, shards.rounded, prepared)
        if kept is not None:
            found.append(kept.sentence(", ".join(each.artifacts)))
    return found


def finish(manifest: Manifest, folder: Path, name: str) -> None:
    """Write the pages for people, and the manifest, which lists them. ``name``: the bundle's."""
    details = read_details(folder)
    pages = {
        USE: use_page(manifest, name),
        REPORT: html_report(manifest, name, details),
        SUMMARY: markdown_report(manifest, name, details),
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
    recipe = plan.choice.recipe
    return BundledArtifact(
        **own,
        folder=artifact.name,
        golden=plan.choice.encoding(artifact.name).golden,
        memory=plan.memory[artifact.name],
        work=work_of(plan.choice.model, recipe, costs_of(artifact.name, recipe)),
        libraries=versions_of(artifact.name),
    )


def copy_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the checkpoint's tokenizer and its chat templates into a new ``folder``."""
    folder.mkdir()
    for path in tokenizer_files(checkpoint.folder):
        shutil.copyfile(path, folder / path.name)
    if additional_templates(checkpoint.folder):
        shutil.copytree(checkpoint.folder / MORE, folder / MORE)
