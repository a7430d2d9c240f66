"""Find backends by the artifact that they write, and targets by name.

Backends are found by entry points of the group ``slmkit.backends``, ours and other people's alike.
In a checkout that is not installed, packages named ``slmkit_*`` on the import path are asked for a
module ``declarations`` too.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from slmkit.backend.declaration import EVERY_ERROR, Declaration, ErrorKind, this_machine
from slmkit.backend.targets import ANDROID, IOS, Target
from slmkit.errors import BackendError, MissingPackageError, SlmkitError

if TYPE_CHECKING:
    from slmkit.backend.interface import Backend

GROUP = "slmkit.backends"
PREFIX = "slmkit_"  # of packages that may declare backends without being installed
MODULE = "declarations"  # of such a package: its DECLARATIONS


def declarations() -> dict[str, Declaration]:
    """All backends by artifact, in the order of their ranks."""
    found = {each.artifact: each for each in (*_checkout(), *_installed(tuple(sys.path)))}
    ordered = sorted(found.values(), key=lambda each: (each.rank, each.artifact))
    return {each.artifact: each for each in ordered}


def declaration_of(artifact: str) -> Declaration:
    """The declaration of an artifact's backend. Raises BackendError for an unknown artifact."""
    known = declarations()
    if artifact not in known:
        raise BackendError(
            f"no backend writes {artifact!r}", f"known artifacts: {', '.join(known)}"
        )
    return known[artifact]


def find_backend(artifact: str) -> Backend:
    """Import the backend of an artifact.

    Raises BackendError for an unknown artifact, MissingPackageError for packages that are not
    installed.
    """
    declared = declaration_of(artifact)
    require_packages([artifact])
    module, _, name = declared.module.partition(":")
    found: Any = import_module(module)
    backend: Backend = getattr(found, name) if name else found
    return backend


def require_packages(artifacts: Iterable[str]) -> None:
    """Raise MissingPackageError that names everything these artifacts lack, and one command."""
    asked = [declaration_of(artifact) for artifact in artifacts]
    missing = {each.artifact: _missing(each) for each in asked if _missing(each)}
    lacking = [each for each in asked if each.artifact in missing]
    if not all(each.available for each in lacking):
        raise _not_here(asked, lacking)
    if lacking:
        needs = [f"the artifact {name} needs {', '.join(lacks)}" for name, lacks in missing.items()]
        requirements = [name for each in lacking for name in each.requirements]
        raise MissingPackageError("; ".join(needs), pip_command(requirements))


def targets() -> dict[str, Target]:
    """All targets by name: slmkit's own, then those that only other people's backends have."""
    declared = [target for each in declarations().values() for target in each.targets]
    return {target.name: target for target in (ANDROID, IOS, *declared)}


def find_target(name: str) -> Target:
    """A target by name. Raises SlmkitError with those that exist."""
    known = targets()
    if name not in known:
        raise SlmkitError(f"there is no target {name!r}", f"targets: {', '.join(known)}")
    return known[name]


def artifacts_of(target: Target) -> tuple[str, ...]:
    """The artifacts that are built for a target, in the order of their backends' ranks."""
    return tuple(
        name
        for name, declared in declarations().items()
        if target.name in {each.name for each in declared.targets}
    )


def error_kinds(artifacts: Iterable[str]) -> dict[str, ErrorKind]:
    """The error kinds that these artifacts' comparisons may show."""
    found = dict(EVERY_ERROR)
    for artifact in artifacts:
        found |= declaration_of(artifact).errors
    return found


def installed_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of PyPI packages; None for one that is not installed."""
    return {name: _version(name) for name in packages}


def versions_of(artifact: str) -> dict[str, str | None]:
    """Versions of the libraries that an artifact's bytes depend on."""
    declared = declaration_of(artifact)
    return installed_versions((*declared.packages, *declared.proof_packages, "numpy"))


def pip_command(requirements: Iterable[str]) -> str:
    """The command that installs requirements, extras of slmkit joined to one."""
    asked = list(dict.fromkeys(requirements))
    own = [each for each in asked if each.startswith("slmkit[")]
    others = [each for each in asked if each not in own]
    extras = [each.removeprefix("slmkit[").removesuffix("]") for each in own]
    joined = [f"slmkit[{','.join(extras)}]"] if extras else []
    return "pip install " + " ".join(f'"{each}"' for each in [*joined, *others])


def _not_here(asked: list[Declaration], lacking: list[Declaration]) -> MissingPackageError:
    """The error for artifacts whose packages this machine cannot have."""
    elsewhere = [each for each in lacking if not each.available]
    others = [each.artifact for each in asked if each not in elsewhere]
    where = [f"{each.artifact} can be built on {', '.join(each.machines)}" for each in elsewhere]
    return MissingPackageError(
        f"{'; '.join(where)}; this machine is {this_machine()}",
        f"choose others: --artifacts {','.join(others)}" if others else "see slmkit doctor",
    )


def _missing(declared: Declaration) -> list[str]:
    versions = installed_versions(declared.packages)
    return [name for name, found in versions.items() if found is None]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _installed(path: tuple[str, ...]) -> tuple[Declaration, ...]:
    """Declarations of entry points on an import path: scanned once for each path."""
    points = {each.name: each for each in entry_points(group=GROUP)}
    return tuple(_declaration(point.load(), point.value) for point in points.values())


@cache
def _checkout() -> tuple[Declaration, ...]:
    """Declarations of packages on the import path, whose names begin with PREFIX."""
    names = [each.name for each in pkgutil.iter_modules() if each.name.startswith(PREFIX)]
    modules = [f"{name}.{MODULE}" for name in sorted(names) if find_spec(f"{name}.{MODULE}")]
    return tuple(each for name in modules for each in import_module(name).DECLARATIONS)


def _declaration(found: Any, where: str) -> Declaration:
    if not isinstance(found, Declaration):
        raise BackendError(
            f"the entry point {where} of {GROUP} names no Declaration",
            "let it name a slmkit.backend.declaration.Declaration, or uninstall its package",
        )
    return found
