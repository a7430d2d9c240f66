"""The places that there are, what each can run, and whether it is ready."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from slmkit.backend.registry import declarations
from slmkit.devices.places.adb import ASKS, seen_devices
from slmkit.devices.places.app import NOT_EXECUTED, iphones, simulators
from slmkit.devices.places.box import Box, check_wheels, make_box, open_box
from slmkit.devices.places.place import requirements_of
from slmkit.devices.places.qemu_arm64 import PROFILES, QemuArm64
from slmkit.errors import BackendError, SlmkitError, UsageError

READY = "ready"
LINUX, MACOS = "Linux", "Darwin"  # as ``uname -s`` names them


@dataclass(frozen=True)
class Listed:
    """One place."""

    where: str  # of ``--on``
    about: str
    runs: tuple[str, ...]  # artifacts
    state: str  # READY, or what is missing


def sent(*systems: str) -> tuple[str, ...]:
    """Artifacts that a payload can run on another machine with one of these systems."""
    return tuple(
        name
        for name, each in declarations().items()
        if each.elsewhere is not None and not set(systems).isdisjoint(each.elsewhere.systems)
    )


def listed() -> tuple[Listed, ...]:
    """Every place, the nearest first."""
    own = tuple(name for name, each in declarations().items() if each.timed)
    return (
        Listed("local", "this computer", own, READY),
        *_profiles(),
        _ssh(),
        *_phones(),
        *_apps(),
    )


def box_requirements() -> tuple[str, ...]:
    """Wheels for every artifact that a payload can run on Linux, as ``pip`` is asked for them."""
    known = [each.elsewhere for each in declarations().values()]
    box = [each for each in known if each is not None and LINUX in each.systems]
    return tuple(dict.fromkeys(name for each in box for name in requirements_of(each)))


def set_up(place: str) -> Box:
    """Make what a place needs on this computer. Raises UsageError for one that needs nothing."""
    if place.partition(":")[0] != "qemu-arm64":
        raise UsageError(f"{place} needs no setup", "only qemu-arm64 does")
    return make_box(box_requirements())


def _profiles() -> Iterator[Listed]:
    for name, profile in PROFILES.items():
        yield Listed(f"qemu-arm64:{name}", profile.about, sent(LINUX), _state(name))


def _ssh() -> Listed:
    about = "a machine with a Python 3.10 or newer that ssh reaches without a question"
    untried = [name for name in sent(MACOS) if name not in sent(LINUX)]
    if untried:
        about += f"; {', '.join(untried)} on a Mac: {NOT_EXECUTED}"
    state = READY if shutil.which("ssh") else "there is no ssh here: install OpenSSH's client"
    return Listed("ssh:HOST", about, sent(LINUX, MACOS), state)


def _phones() -> Iterator[Listed]:
    """A row for each device that adb sees; one for all, if it sees none."""
    about = "a phone with Android, or its emulator: 64-bit Arm"
    try:
        box, seen = open_box(), seen_devices()
        check_wheels(box, box_requirements())
    except BackendError as error:
        yield Listed("adb:SERIAL", about, sent(LINUX), f"{error.message}: {error.hint}")
        return
    for each in seen:
        state = READY if each.state == "device" else f"{each.state}: {ASKS.get(each.state, '')}"
        yield Listed(f"adb:{each.serial}", each.about or about, sent(LINUX), state)
    if not seen:
        yield Listed("adb:SERIAL", about, sent(LINUX), "adb sees no device")


def _apps() -> Iterator[Listed]:
    """Rows of the sample app's self-test: what it runs depends on the bundle that it holds."""
    runs = ("what its app holds",)
    kinds = (
        ("adb-app", "SERIAL", "the app's self-test on Android", seen_devices),
        ("simctl", "UDID", "the app's self-test in a booted simulator", simulators),
        ("devicectl", "UDID", "the app's self-test on an iPhone or iPad", iphones),
    )
    for kind, detail, about, seen_by in kinds:
        said = f"{about} ({NOT_EXECUTED})"
        try:
            seen = seen_by()
        except BackendError as error:
            lacks = f"{error.message}: {error.hint}" if error.hint else error.message
            yield Listed(f"{kind}:{detail}", said, runs, lacks)
            continue
        for each in seen:
            state = "needs the app there" if each.state == "device" else each.state
            yield Listed(f"{kind}:{each.serial}", f"{said} {each.about}", runs, state)
        if not seen:
            yield Listed(f"{kind}:{detail}", said, runs, "no device is seen")


def _state(profile: str) -> str:
    try:
        check_wheels(open_box(), box_requirements())
        QemuArm64(profile)
    except BackendError as error:
        return f"{error.message}: {error.hint}"
    except SlmkitError as error:
        return error.message
    return READY
