"""Templates of app projects: the sample apps, each with a file of facts about it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from slmkit.bundle.manifest import STRICT, BundledArtifact, Inside, Manifest
from slmkit.errors import BackendError, RefusedError, UsageError

FACTS = "template.json"
README = "PROJECT.md"  # of a template; in a project it becomes README.md
# Beside the templates: scripts that fetch tools for checks, and vectors of every kind of tokenizer.
SETUP, VECTORS = "setup", "vectors"
PACKAGE = Path(__file__).resolve().parents[1]
# In the wheel beside the package's modules, in a checkout at its top.
PLACES = (PACKAGE / "sample_apps", PACKAGE.parents[1] / "sample_apps")


class Runnable(BaseModel):
    """An artifact that the app runs.

    ``tokenizes``: who makes ids of text, the app's own tokenizer or the artifact's runtime;
    ``facts``: of its contract, which it must have; ``words``: for the project's README.
    """

    model_config = STRICT

    tokenizes: Literal["app", "runtime"]
    facts: Mapping[str, Any] = Field(default_factory=dict)
    words: Mapping[str, str] = Field(default_factory=dict)

    def check_form(self, artifact: BundledArtifact) -> None:
        """Raise RefusedError for a form of the artifact that the app does not run."""
        for key, value in self.facts.items():
            if artifact.facts.get(key) != value:
                wanted = json.dumps(value)
                raise RefusedError(
                    f"the app runs another form of {artifact.name}, with {key}: {wanted}",
                    f"build it with --option {artifact.name}.{key}={wanted}",
                )


class Check(BaseModel):
    """A check that a computer with some tools can run on a project.

    ``command``: its words, where {python}, {setup}, {project}, {models}, {vectors}, {out} and
    {tools} stand for a Python, the setup scripts, the project, its models' and vectors' folders,
    a new folder, and the tools. Exit code 77: this computer lacks something, and the last line
    says what. ``tools``: the setup script that fetches them; with ``--where`` it prints their
    folder.
    """

    model_config = STRICT

    name: str
    command: tuple[str, ...]
    tools: str
    artifacts: tuple[str, ...]  # of projects with one of these
    minutes: float = 10  # after which it has failed


class Template(BaseModel):
    """The facts that slmkit must know of a sample app to make a project of it."""

    model_config = STRICT

    format: Literal["slmkit-app-template/1"]
    platform: str
    id: str  # everywhere in the template; as folders too
    id_form: str  # a regular expression of other ids
    id_example: str
    reserved: tuple[str, ...] = ()  # no part of an id: words of the language
    models: Inside  # folder for model/, chat.json, cases.json and tokens.json
    beside: Inside  # the same for what is too large to be part of the app
    largest: int  # bytes of a model that is part of the app
    vectors: Inside  # folder of the tests' vectors: those of every kind, and the model's own
    artifacts: Mapping[str, Runnable]
    left_out: tuple[str, ...]  # patterns of file and folder names that are no part of a project
    checks: tuple[Check, ...]
    not_executed: Mapping[str, str]  # what no computer without the vendor's tools can check: why

    def check_id(self, name: str) -> None:
        """Raise UsageError for a text that is no app's id on this platform."""
        lost = set(name.split(".")) & set(self.reserved)
        if not re.fullmatch(self.id_form, name) or lost:
            why = f"{min(lost)!r} is a word of the language" if lost else "it is not of that form"
            raise UsageError(f"{name!r} is no id of an app: {why}", f"such as {self.id_example}")

    def choose(self, manifest: Manifest, name: str | None) -> BundledArtifact:
        """An artifact of a bundle that the app runs: the first one by default.

        Raises BundleError for one that there is not, RefusedError for one that it does not run.
        """
        runs = ", ".join(self.artifacts)
        if name is None:
            found = [each for each in manifest.artifacts if each.name in self.artifacts]
            if found:
                return self._checked(found[0])
            has = ", ".join(each.name for each in manifest.artifacts)
            raise RefusedError(
                f"the {self.platform} app runs none of the bundle's artifacts: {has}",
                f"it runs {runs}: build one of them",
            )
        artifact = manifest.artifact(name)
        if name not in self.artifacts:
            raise RefusedError(
                f"the {self.platform} app does not run {name}: it only names what that needs",
                f"it runs {runs}; for others see USE.md in the bundle",
            )
        return self._checked(artifact)

    def _checked(self, artifact: BundledArtifact) -> BundledArtifact:
        self.artifacts[artifact.name].check_form(artifact)
        return artifact


def templates() -> dict[str, Path]:
    """The folders of all templates, by platform."""
    place = _place()
    return {path.parent.name: path.parent for path in sorted(place.glob(f"*/{FACTS}"))}


def setup_folder() -> Path:
    """The folder of the scripts that fetch tools for checks."""
    return _place() / SETUP


def vector_folders() -> list[Path]:
    """A folder with vectors.json and tokens.json of each kind that the apps read."""
    return [path.parent for path in sorted((_place() / VECTORS).glob("*/vectors.json"))]


def read_template(platform: str) -> tuple[Path, Template]:
    """A template's folder and facts. Raises UsageError for a platform that has none."""
    found = templates()
    if platform not in found:
        names = ", ".join(found) or "none"
        raise UsageError(f"there is no sample app for {platform!r}", f"there are: {names}")
    path = found[platform] / FACTS
    try:
        return found[platform], Template.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, OSError, ValueError) as error:
        raise BackendError(f"{path} is damaged: {error}", "install slmkit again") from None


def _place() -> Path:
    return next((place for place in PLACES if any(place.glob(f"*/{FACTS}"))), PLACES[-1])
