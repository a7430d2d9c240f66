"""Texts that are written for people: templates of this folder and of backends, filled in."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from slmkit.backend.registry import declaration_of
from slmkit.bundle.manifest import BundledArtifact, Manifest
from slmkit.bundle.roles import most_that_ships
from slmkit.planning.memory import gigabytes

TEMPLATES = Environment(
    loader=PackageLoader("slmkit.bundle"),
    autoescape=select_autoescape(
        ("xml.jinja", "html.jinja"), default_for_string=False
    ),  # others: Markdown
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(name: str, **values: Any) -> str:
    """A template of ``templates/``, by its name without ``.jinja``."""
    return TEMPLATES.get_template(f"{name}.jinja").render(values)


def fill(text: str, **values: Any) -> str:
    """A template's text of Markdown or Kotlin, filled in."""
    return TEMPLATES.from_string(text).render(values)


def use_page(manifest: Manifest, name: str) -> str:
    """USE.md of a bundle that is called ``name``: for each artifact what an app links, loads and
    calls, as its backend's template says. The manifest must list its files."""
    parts = [_part(manifest, artifact, name) for artifact in manifest.artifacts]
    return render("use.md", manifest=manifest, parts=parts)


def _part(manifest: Manifest, artifact: BundledArtifact, name: str) -> str:
    """The part of one artifact: what the manifest says of any, then the backend's own lines."""
    declared = declaration_of(artifact.name)
    devices = tuple(device for device in artifact.ships if device)
    values = {
        "manifest": manifest,
        "artifact": artifact,
        "about": declared.about,
        "bundle": name,
        "devices": devices,
        "size": gigabytes(sum(file.size for file in most_that_ships(manifest, artifact))),
        "memory": gigabytes(artifact.memory.total),
        "own": "",
    }
    if declared.use:
        package, _, file = declared.use.partition(":")
        text = files(package).joinpath(file).read_text(encoding="utf-8")
        values["own"] = fill(text, **values).strip()
    return render("use_artifact.md", **values)
