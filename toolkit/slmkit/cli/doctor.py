"""Installed packages: of backends and runtimes, their versions, and how to get the missing."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

from slmkit import __version__
from slmkit.backend.declaration import Extra
from slmkit.backend.registry import (
    broken_backends,
    declarations,
    installed_versions,
    pip_command,
)
from slmkit.system.cache import default_folder

OTHERS = (  # beyond the backends'
    Extra("gguf", "GGUF files as checkpoints, and written of a bundle", ("gguf",)),
    Extra("eval", "tasks of lm-evaluation-harness", ("lm-eval", "datasets")),
    Extra("serve", "a server, answers by a JSON schema", ("starlette", "uvicorn", "llguidance")),
    Extra("sign", "signatures of bundles", ("model-signing", "pyopenssl")),
    Extra("sbom", "lists of parts and licenses", ("cyclonedx-python-lib", "spdx-tools")),
    Extra("llamacpp", "llama.cpp: exported GGUF files, slmkit bench", ("gguf", "xllamacpp")),
    Extra(
        "test",
        "the test suite",
        ("pytest", "pytest-xdist", "hypothesis", "uv", "check-jsonschema"),
    ),
    Extra("dev", "commits and releases", ("pre-commit", "towncrier", "twine", "uv")),
    Extra("docs", "the documentation as a site", ("mkdocs-material", "mkdocstrings")),
    Extra("crosscheck", "comparing with transformers", ("torch", "transformers")),
    Extra("train", "retraining the sample model", ("torch", "transformers")),
)


@dataclass(frozen=True)
class Row:
    """One extra: its use, versions of its packages, and the command if one is missing."""

    extra: str
    about: str
    packages: dict[str, str | None]
    install: str
    available: bool = True  # false if the packages have no wheels for this machine

    @property
    def command(self) -> str | None:
        """The exact command that installs what is missing; None if nothing is, or nothing can."""
        return self.install if self.available and None in self.packages.values() else None


def examine() -> list[Row]:
    """All extras: the backends' first."""
    known = declarations().values()
    backends = [
        Row(
            declared.extra,
            f"artifact {declared.artifact}: {declared.about}",
            installed_versions(declared.packages),
            pip_command(declared.requirements),
            declared.available,
        )
        for declared in known
    ]
    extras = [each for declared in known for each in declared.extras]
    return backends + [_row(each) for each in (*extras, *OTHERS)]


def surroundings() -> dict[str, str]:
    """slmkit, Python, the machine, the cache, and where the backends come from."""
    broken = "; ".join(each.message for each in broken_backends().values())
    return {
        "slmkit": __version__,
        "Python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}",
        "cache": str(default_folder()),
        "backends": ", ".join(
            f"{name} ({declared.module.partition('.')[0]})"
            for name, declared in declarations().items()
        ),
        **({"backends that cannot be loaded": broken} if broken else {}),
    }


def _row(extra: Extra) -> Row:
    command = extra.install or pip_command([f"slmkit[{extra.name}]"])
    return Row(extra.name, extra.about, installed_versions(extra.packages), command)
