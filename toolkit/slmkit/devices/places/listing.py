"""The places that there are, what each can run, and whether it is ready."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slmkit.backend.registry import declarations
from slmkit.devices.places.box import SETUP, Box, make_box, open_box
from slmkit.devices.places.place import missing_of, requirements_of
from slmkit.devices.places.qemu_arm64 import PROFILES, QemuArm64
from slmkit.errors import BackendError, SlmkitError, UsageError

READY = "ready"


@dataclass(frozen=True)
class Listed:
    """One place."""

    where: str  # of ``--on``
    about: str
    runs: tuple[str, ...]  # artifacts
    state: str  # READY, or what is missing


def sent() -> tuple[str, ...]:
    """Artifacts that a payload can run on another machine."""
    return tuple(name for name, each in declarations().items() if each.elsewhere is not None)


def listed() -> tuple[Listed, ...]:
    """Every place, the nearest first."""
    own = tuple(name for name, each in declarations().items() if each.timed)
    return (Listed("local", "this computer", own, READY), *_profiles())


def box_requirements() -> tuple[str, ...]:
    """Wheels for every artifact that a payload can run, as ``pip`` is asked for them."""
    known = [each.elsewhere for each in declarations().values() if each.elsewhere is not None]
    return tuple(dict.fromkeys(name for each in known for name in requirements_of(each)))


def set_up(place: str) -> Box:
    """Make what a place needs on this computer. Raises UsageError for one that needs nothing."""
    if place.partition(":")[0] != "qemu-arm64":
        raise UsageError(f"{place} needs no setup", "only qemu-arm64 does")
    return make_box(box_requirements())


def _profiles() -> Iterator[Listed]:
    for name, profile in PROFILES.items():
        yield Listed(f"qemu-arm64:{name}", profile.about, sent(), _state(name))


def _state(profile: str) -> str:
    try:
        missing = missing_of(box_requirements(), open_box().requirements)
        if missing:
            return f"other versions than here: {SETUP}"
        QemuArm64(profile)
    except BackendError as error:
        return f"not set up: {error.hint}"
    except SlmkitError as error:
        return error.message
    return READY
