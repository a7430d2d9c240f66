"""WHERE of ``--on``: a name, and the place that it means."""

from __future__ import annotations

from collections.abc import Callable

from slmkit.devices.places.adb import Adb
from slmkit.devices.places.app import APPS
from slmkit.devices.places.place import Place
from slmkit.devices.places.qemu_arm64 import QemuArm64
from slmkit.devices.places.ssh import Ssh
from slmkit.errors import UsageError

LOCAL = "local"  # this computer, without a place
PLACES: dict[str, Callable[[str], Place]] = {
    "qemu-arm64": lambda profile: QemuArm64(profile) if profile else QemuArm64(),
    "ssh": lambda host: Ssh(host),
    "adb": lambda serial: Adb(serial),
}


def place_of(where: str) -> Place:
    """The place of a WHERE such as "qemu-arm64:a76". Raises UsageError for no such place, and what
    the place says if it is not ready."""
    kind, _, detail = where.partition(":")
    if kind in APPS:
        raise UsageError(f"{kind} proves tokens by an app's self-test", "slmkit parity --on")
    if kind not in PLACES:
        known = ", ".join((LOCAL, *PLACES, *APPS))
        raise UsageError(f"there is no place {where!r}", f"places: {known}")
    return PLACES[kind](detail)
