"""Find backends by the artifact that they write, and targets by name.

Backends are found by entry points of the group ``slmkit.backends``, ours and other people's alike.
In a checkout that is not installed, packages named ``slmkit_*`` on the import path are asked for a
module ``declarations`` too.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from slmkit import __version__
from slmkit.backend.declaration import EVERY_ERROR, Declaration, ErrorKind, this_machine
from slmkit.backend.targets import ANDROID, IOS, Target
from slmkit.errors import BackendError, MissingPackageError, SlmkitError
from slmkit.system.installing import own_requirement

if TYPE_CHECKING:
    from slmkit.backend.interface import Backend

GROUP = "slmkit.backends"
PREFIX = "slmkit_"  # of packages that may declare backends without being installed
MODULE = "declarations"  # of such a package: its DECLARATIONS


def declarations() -> dict[str, Declaration]:
    """All backends by artifact, in the order of their ranks."""
    installed = _installed(tuple(sys.path)).values()
    outside = [each for each in installed if isinstance(each, Declaration)]
    found = {each.artifact: each for each in (*_checkout(), *outside)}
    ordered = sorted(found.values(), key=lambda each: (each.rank, each.artifact))
    return {each.artifact: each for each in ordered}


def declaration_of(artifact: str) -> Declaration:
    """The declaration of an artifact's backend.

    Raises BackendError for an unknown artifact, and for one whose entry point cannot be used.
    """
    known = declarations()
    if artifact in broken_backends():
        raise broken_backends()[artifact]
    if artifact not in known:
        raise BackendError(
            f"no backend writes {artifact!r}", f"known artifacts: {', '.join(known)}"
        )
    return known[artifact]


def broken_backends() -> dict[str, BackendError]:
    """Entry points that cannot be used, by name, and why: they leave the other backends alone."""
    installed = _installed(tuple(sys.path)).items()
    return {name: each for name, each in installed if isinstance(each, BackendError)}


def find_backend(artifact: str) -> Backend:
    """Import the backend of an artifact.

    Raises BackendError for an unknown artifact, a module that cannot be imported and one that lacks
    a part of the interface; MissingPackageError for packages that are not installed.
    """
    declared = declaration_of(artifact)
    require_packages([artifact])
    module, _, name = declared.module.partition(":")
    try:
        found: Any = import_module(module)
        backend: Backend = getattr(found, name) if name else found
    except Exception as error:  # a stranger's module may raise anything
        raise _cannot_load(artifact, declared.module, error) from error
    lacking = [part for part in _interface() if not hasattr(backend, part)]
    if lacking:
        raise BackendError(
            f"the backend {artifact} ({declared.module}) lacks {', '.join(lacking)}",
            f"use a version of its package that is made for slmkit {__version__}",
        )
    return backend


def require_packages(
    artifacts: Iterable[str], inputs: Mapping[str, tuple[str, ...]] | None = None
) -> None:
    """Raise MissingPackageError that names everything these artifacts lack, and one command.

    ``inputs``: of things that are read, by their names, an extra of slmkit and its packages.
    """
    asked = [declaration_of(artifact) for artifact in artifacts]
    missing = {each.artifact: _missing(each) for each in asked if _missing(each)}
    lacking = [each for each in asked if each.artifact in missing]
    if not all(each.available for each in lacking):
        raise _not_here(asked, lacking)
    needs = [f"the artifact {name} needs {', '.join(lacks)}" for name, lacks in missing.items()]
    requirements = [name for each in lacking for name in each.requirements]
    for name, (extra, *packages) in (inputs or {}).items():
        gone = _gone(packages)
        needs += [f"{name} needs {', '.join(gone)}"] if gone else []
        requirements += [f"slmkit[{extra}]"] if gone else []
    if needs:
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


def require_extra(what: str, extra: str, *packages: str) -> None:
    """Raise MissingPackageError if something that needs an extra of slmkit lacks packages."""
    lacking = _gone(packages)
    if lacking:
        raise MissingPackageError(
            f"{what} needs {', '.join(lacking)}", pip_command([f"slmkit[{extra}]"])
        )


def pip_command(requirements: Iterable[str]) -> str:
    """The command that installs requirements, extras of slmkit joined to one: from the clone, if
    this is one."""
    asked = list(dict.fromkeys(requirements))
    own = [each for each in asked if each.startswith("slmkit[")]
    others = [each for each in asked if each not in own]
    extras = [each.removeprefix("slmkit[").removesuffix("]") for each in own]
    joined = [own_requirement(extras)] if extras else []
    return " ".join(["pip install", *joined, *(f'"{each}"' for each in others)])


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
    return _gone(declared.packages)


def _gone(packages: Iterable[str]) -> list[str]:
    return [name for name, found in installed_versions(packages).items() if found is None]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _installed(path: tuple[str, ...]) -> dict[str, Declaration | BackendError]:
    """The declaration of each entry point on an import path, or why it cannot be used: scanned
    once for each path."""
    return {point.name: _loaded(point) for point in entry_points(group=GROUP)}


@cache
def _checkout() -> tuple[Declaration, ...]:
    """Declarations of packages on the import path, whose names begin with PREFIX."""
    names = [each.name for each in pkgutil.iter_modules() if each.name.startswith(PREFIX)]
    modules = [f"{name}.{MODULE}" for name in sorted(names) if find_spec(f"{name}.{MODULE}")]
    return tuple(each for name in modules for each in import_module(name).DECLARATIONS)


def _loaded(point: EntryPoint) -> Declaration | BackendError:
    try:
        found = point.load()
    except Exception as error:  # a stranger's module may raise anything
        return _cannot_load(point.name, point.value, error)
    if isinstance(found, Declaration):
        return found
    return BackendError(
        f"the entry point {point.value} of {GROUP} names no Declaration",
        "let it name a slmkit.backend.declaration.Declaration, or uninstall its package",
    )


def _cannot_load(name: str, place: str, error: Exception) -> BackendError:
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return BackendError(
        f"the backend {name} cannot be loaded from {place}: {said}",
        "repair or uninstall its package",
    )


@cache
def _interface() -> tuple[str, ...]:
    """Names that every backend must have: the members of ``slmkit.backend.interface.Backend``."""
    from slmkit.backend.interface import Backend

    functions = [name for name in vars(Backend) if not name.startswith("_")]
    return (*Backend.__annotations__, *functions)
