"""A project of one's own: a sample app with a bundle's artifact, chat form and golden cases."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from slmkit import __version__
from slmkit.app.cases import Cases, cases_of_bundle
from slmkit.app.chat_form import ChatForm, NoChatForm
from slmkit.app.chat_proof import chat_form
from slmkit.app.json_lines import write_lines
from slmkit.app.template import FACTS, README, Runnable, Template, read_template, vector_folders
from slmkit.app.tokens import Tokens, read_tokens
from slmkit.app.vectors import Vectors, vectors_of
from slmkit.bundle.export import export
from slmkit.bundle.folder import Kind, check_place, written
from slmkit.bundle.manifest import STRICT, BundledArtifact, Inside, Manifest, read_manifest
from slmkit.bundle.pages import fill
from slmkit.bundle.roles import shipped
from slmkit.bundle.verify import check_files
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import BundleError, RefusedError
from slmkit.planning.memory import gigabytes

MARK = "slmkit-app.json"
KIND = Kind("app project", "an", MARK, "--out")
MODEL, VECTORS = "model", "vectors.json"
CHAT, CASES, TOKENS = "chat.json", "cases.json", "tokens.json"  # beside the model
TOKENIZER = "tokenizer.json"
PROJECT_README = "README.md"
UNREAD = shutil.ignore_patterns("tokenizer*.json", "generation_config.json")  # of vectors


class Project(BaseModel):
    """slmkit-app.json: what a project was made of, and where its parts are."""

    model_config = STRICT

    format: Literal["slmkit-app/2"] = "slmkit-app/2"
    slmkit: str  # version
    platform: str
    id: str
    model: str
    artifact: str
    models: Inside  # folder of model/, chat.json, cases.json and tokens.json
    inside: bool  # whether they are part of the app; else they are pushed or delivered
    vectors: Inside | None  # folder of its vectors.json; None: the artifact's runtime tokenizes


class Parts(BaseModel):
    """The parts that a project takes of a bundle; worked out before anything is written."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    form: ChatForm | NoChatForm
    cases: Cases
    tokens: Tokens | None  # None, as vectors: the artifact's runtime tokenizes
    vectors: Vectors | None
    size: int  # bytes of the artifact's files


def new_app(
    bundle: str | Path,
    platform: str,
    out: str | Path,
    *,
    app_id: str | None = None,
    artifact: str | None = None,
    raw: bool = False,
    force: bool = False,
) -> Project:
    """Write an app's project into the folder ``out``: whole, or nothing.

    ``artifact``: the bundle's first that the app runs, if none is named. ``raw``: an app that takes
    prompts as they are will do, where the chat template has no form for apps. ``force``: replace an
    older project. Raises BundleError, UsageError, and RefusedError for an artifact, a tokenizer or
    a template that the app cannot carry.
    """
    bundle, place = Path(bundle), Path(out)
    check_place(place, force, KIND)
    folder, template = read_template(platform)
    name = app_id or template.id_example
    template.check_id(name)
    manifest = read_manifest(bundle)
    manifest.refuse_failed()
    chosen = template.choose(manifest, artifact)
    runnable = template.artifacts[chosen.name]
    parts = _parts(bundle, manifest, chosen, runnable, raw)
    inside = parts.size <= template.largest
    project = Project(
        slmkit=__version__,
        platform=platform,
        id=name,
        model=manifest.model.name,
        artifact=chosen.name,
        models=template.models if inside else template.beside,
        inside=inside,
        vectors=f"{template.vectors}/{MODEL}" if parts.vectors else None,
    )
    with written(place, force, KIND) as new:
        _copy(folder, new, template, name)
        for each in vector_folders():
            shutil.copytree(each, new / template.vectors / each.name, ignore=UNREAD)
        _write_model(bundle, new, project, parts)
        (new / PROJECT_README).write_text(_readme(folder, project, runnable, parts), "utf-8")
        write_lines(project, new / MARK)
    return project


def read_project(folder: Path) -> Project:
    """A project's facts. Raises BundleError for another folder."""
    path = folder / MARK
    try:
        return Project.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, OSError, ValueError):
        raise BundleError(
            f"{folder} is not an app project: {MARK} is missing or damaged",
            "give a folder that slmkit app new wrote",
        ) from None


def _parts(
    bundle: Path, manifest: Manifest, artifact: BundledArtifact, runnable: Runnable, raw: bool
) -> Parts:
    """Raises RefusedError for a tokenizer or a template that the app cannot carry."""
    files = shipped(manifest, artifact)
    read = (artifact.golden, f"{manifest.tokenizer}/")
    check_files(bundle, [file for file in manifest.files if file.path.startswith(read)])
    place = bundle / manifest.tokenizer
    tokenizer = Tokenizer(place, manifest.chat_template, manifest.model.vocab_size)
    tokenizer.stop_ids = manifest.stop_ids
    by_runtime = runnable.tokenizes == "runtime"
    if by_runtime and artifact.app_tokenizer:
        raise RefusedError(
            f"the runtime that the app takes for {artifact.name} tokenizes text itself, and the "
            "artifact brings no tokenizer for it",
            "take another artifact, with --artifact",
        )
    form = chat_form(tokenizer)
    tokens = None if by_runtime else read_tokens(place / TOKENIZER)
    if tokens and isinstance(form, NoChatForm) and tokenizer.template is not None and not raw:
        raise RefusedError(
            f"the app cannot carry the model's chat template: {form.refused}",
            "with --raw it takes prompts as they are; or take an artifact whose runtime "
            "renders templates",
        )
    return Parts(
        form=form,
        cases=cases_of_bundle(bundle, artifact),
        tokens=tokens,
        vectors=None if by_runtime else vectors_of(manifest.model.name, tokenizer, form),
        size=sum(file.size for file in files),
    )


def _copy(template: Path, place: Path, facts: Template, name: str) -> None:
    """The template's files, with the id of the new app in texts and in names of folders."""
    for path in _files(template, facts):
        inner = path.relative_to(template).as_posix()
        target = place / inner.replace(_as_folders(facts.id), _as_folders(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        with contextlib.suppress(UnicodeDecodeError):  # a picture
            data = data.decode("utf-8").replace(facts.id, name).encode("utf-8")
        target.write_bytes(data)
        shutil.copymode(path, target)


def _files(template: Path, facts: Template) -> Iterator[Path]:
    """All but what is left out."""
    patterns = (*facts.left_out, FACTS, README)
    for path in sorted(template.rglob("*")):
        inner = path.relative_to(template)
        names = {*inner.parts, inner.as_posix(), *(each.as_posix() for each in inner.parents[:-1])}
        if path.is_file() and not any(fnmatchcase(a, b) for a in names for b in patterns):
            yield path


def _as_folders(name: str) -> str:
    return name.replace(".", "/")


def _write_model(bundle: Path, new: Path, project: Project, parts: Parts) -> None:
    models = new / project.models
    models.mkdir(parents=True, exist_ok=True)
    export(bundle, project.artifact, models / MODEL)
    write_lines(parts.form, models / CHAT)
    write_lines(parts.cases, models / CASES)
    if parts.tokens is None or parts.vectors is None or project.vectors is None:
        return
    write_lines(parts.tokens, models / TOKENS)
    vectors = new / project.vectors
    vectors.mkdir(parents=True, exist_ok=True)
    write_lines(parts.vectors, vectors / VECTORS)
    for name in (CHAT, TOKENS):
        shutil.copyfile(models / name, vectors / name)


def _readme(template: Path, project: Project, runnable: Runnable, parts: Parts) -> str:
    """README.md of the project, out of the template's own text."""
    text = (template / README).read_text(encoding="utf-8")
    values = {**project.model_dump(), **runnable.words, "size": gigabytes(parts.size)}
    return fill(text, **values)
