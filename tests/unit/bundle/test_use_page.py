"""USE.md: written from the manifest, for every artifact and form, with what is in the bundle."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from artifacts import emitted
from coreml_artifacts import coreml_job
from litert_artifacts import litert_job
from slmkit.backend.artifact import Artifact
from slmkit.backend.registry import declarations
from slmkit.bundle.manifest import BundledArtifact, Manifest, read_manifest
from slmkit.bundle.pages import use_page
from slmkit.bundle.roles import USE
from slmkit.bundle.verify import verify
from slmkit.planning.memory import MemoryPlan, gigabytes
from tiny_bundles import ort_bundle

LIBRARIES: dict[str, str | None] = {"ai-edge-litert": "1.2.3", "litert-lm-builder": "4.5.6"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LONGEST = 32  # lines of the longest fragment


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


def page_of(manifest: Manifest, artifact: Artifact) -> str:
    own = {name: getattr(artifact, name) for name in Artifact.__dataclass_fields__}
    made = BundledArtifact(
        **own,
        folder=artifact.name,
        golden="proof/g",
        memory=MemoryPlan(16, 10**6, 10**6, 10**6),
        libraries=LIBRARIES,
    )
    return use_page(manifest.model_copy(update={"artifacts": (made,)}), "mine")


def fragments(page: str) -> list[str]:
    return [text for language, text in FENCE.findall(page) if language in ("kotlin", "swift")]


def test_a_bundle_has_the_page_and_it_is_one_of_its_files(bundle):
    manifest = read_manifest(bundle)
    assert (bundle / USE).read_text(encoding="utf-8") == use_page(manifest, bundle.name)
    assert {file.path: file.role for file in manifest.files}[USE] == "docs"
    assert verify(bundle) == len(manifest.files)


def test_a_backend_s_part_is_no_html(bundle):
    """An apostrophe or a sign of Kotlin stays what it is."""
    manifest = read_manifest(bundle)
    (artifact,) = manifest.artifacts
    first = replace(artifact.inputs[0], about='the layers\' keys: a<b> & "c"')
    changed = replace(artifact, inputs=(first, *artifact.inputs[1:]))
    page = use_page(manifest.model_copy(update={"artifacts": (changed,)}), "mine")
    assert 'the layers\' keys: a<b> & "c"' in page and "&#" not in page


def test_it_says_version_memory_command_and_what_was_not_executed(bundle):
    manifest, page = read_manifest(bundle), (bundle / USE).read_text(encoding="utf-8")
    (artifact,) = manifest.artifacts
    version = artifact.libraries["onnxruntime"]
    assert f"com.microsoft.onnxruntime:onnxruntime-android:{version}" in page
    assert f"slmkit export {bundle.name} --artifact ort --to model" in page
    assert gigabytes(artifact.memory.total) in page
    assert all(why in page for why in manifest.not_executed)
    assert "API 26" in page and "on a phone it was not" in page
    assert artifact.facts["model"] in page


def test_every_backend_of_the_repository_has_a_part():
    assert all(declared.use for declared in declarations().values())


FORMS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("llama", {}, ('"position"', "makeState", ".cpuAndNeuralEngine", "the Neural Engine")),
    ("llama", {"layout": "gpu"}, (".cpuAndGPU", "For the GPU")),
    ("llama", {"self_contained": False}, ("embeds", "looks up rows of the embedding file")),
    ("lfm2", {}, ("never filled up",)),
    ("mamba", {}, ('"ids"',)),
]


@pytest.mark.parametrize(("row", "options", "said"), FORMS, ids=str)
def test_the_forms_of_coreml(bundle, tiny, tmp_path, row, options, said):
    artifact = emitted(coreml_job(tiny(row), tmp_path, **options), tmp_path / "coreml")
    page = page_of(read_manifest(bundle), artifact)
    assert all(words in page for words in said), page
    assert ("makeState" in page) == (options.get("self_contained", True))
    assert ('"position"' in page) == (row != "mamba" and "makeState" in page)
    assert max(text.count("\n") for text in fragments(page)) <= LONGEST


@pytest.mark.parametrize(("row", "said"), [("llama", "litertlm-android:4.5.6"), ("mamba", "1.2.3")])
def test_the_forms_of_litert(bundle, tiny, tmp_path, row, said):
    artifact = emitted(litert_job(tiny(row), tmp_path), tmp_path / "litert")
    page = page_of(read_manifest(bundle), artifact)
    assert said in page
    assert ("Engine(" in page) == bool(artifact.facts["bundles"])
    assert all(text.count("\n") <= LONGEST for text in fragments(page))


def test_a_backend_without_a_part_is_said_to_describe_no_app(bundle, monkeypatch):
    declared = declarations()["ort"]
    monkeypatch.setattr(
        "slmkit.bundle.pages.declaration_of", lambda name: replace(declared, use="")
    )
    page = use_page(read_manifest(bundle), "mine")
    assert "describes no app" in page and "```kotlin" not in page
