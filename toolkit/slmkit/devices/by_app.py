"""On a phone of adb: the app's self-test runs what cannot be sent there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slmkit.bundle.manifest import Manifest
from slmkit.devices.places.adb import Adb
from slmkit.devices.places.app import AdbApp, Waiting
from slmkit.devices.places.place import Place
from slmkit.devices.report import DeviceReport
from slmkit.devices.self_test import prove_by_app
from slmkit.errors import SlmkitError


def rest_by_app(
    folder: Path,
    manifest: Manifest,
    place: Place,
    unsent: Mapping[str, str],
    app: str,
    waiting: Waiting | None = None,
) -> tuple[DeviceReport | None, list[str]]:
    """The report of a phone's app about artifacts that cannot be sent there, and sentences about
    those that did not run.

    ``unsent``: by artifact, why not; ``app``: the app's id. The report is None where there is no
    phone, no app or none that ran. Raises BackendError if the phone does not answer.
    """
    if not unsent or not isinstance(place, Adb):
        return None, list(unsent.values())
    there = AdbApp(place.serial, app, place.client)
    if not there.installed:
        lacks = f"and {place.name} has no app {app} to run it (slmkit app new, or --app ID)"
        return None, [f"{each}, {lacks}" for each in unsent.values()]
    try:
        return prove_by_app(folder, manifest, there, list(unsent), waiting), []
    except SlmkitError as error:
        said = f"by the app {app}: {error.message}"
        return None, [f"{name}: {said}" for name in unsent]


def joined(sent: DeviceReport, by_app: DeviceReport) -> DeviceReport:
    """One report of one phone: what was sent, then what its app ran."""
    return sent.model_copy(
        update={
            "runs": (*sent.runs, *by_app.runs),
            "not_executed": (*sent.not_executed, *by_app.not_executed),
        }
    )
