"""adb-app, simctl, devicectl: the sample app's self-test, started from here; its report is fetched.

Commands tested with recorded answers, never executed on a phone or a simulator. The app is
installed by hand, with the bundle inside (``slmkit app new``).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from slmkit.devices.places.adb import Seen, chosen, seen_devices
from slmkit.devices.places.place import last_words
from slmkit.errors import BackendError, UsageError
from slmkit.system.scratch import scratch

APP = "dev.slmkit.sample"
NOT_EXECUTED = "commands tested, never executed"
APP_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+")
ACTIVITY = "dev.slmkit.sample.SelfTestActivity"  # a class: it keeps its name under another id
APPLE = "Documents/report.json"
SECONDS, PAUSE = 900.0, 2.0  # to wait for a report, and between two looks
INSTALL = "slmkit app new makes its project: build and install it there first"
SELF_TEST = "--self-test"  # the launch argument of the app for Apple's systems


class App(Protocol):
    """The app on one device."""

    name: str

    def start(self) -> bytes:
        """Start the self-test; a report of an earlier run that could not be removed, or nothing.
        Raises BackendError if the app is not installed."""
        ...

    def fetch(self, to: Path) -> bool:
        """Copy the report, if it is there."""
        ...


class AdbApp:
    """The app on a device of adb. ``client``: the command of adb."""

    def __init__(self, serial: str = "", app: str = APP, client: Sequence[str] = ("adb",)) -> None:
        self.client, self.app = tuple(client), app
        self.serial = chosen(seen_devices(client), serial, "adb-app").serial
        self.name = f"adb-app:{self.serial}"
        self.report = f"/sdcard/Android/data/{app}/files/report.json"

    @property
    def installed(self) -> bool:
        """Whether the app is there. Raises BackendError if the device does not answer."""
        said = _right(self._shell("pm", "list", "packages", self.app), self.name)
        return f"package:{self.app}" in said.split()

    def start(self) -> bytes:
        """As ``App.start``."""
        if not self.installed:
            raise BackendError(f"{self.name} has no app {self.app}", INSTALL)
        _right(self._shell("rm", "-f", self.report), self.name)
        activity = f"{self.app}/{ACTIVITY}"
        said = _right(self._shell("am", "start", "-S", "-W", "-n", activity), self.name)
        if "Error" in said:  # am ends with 0 all the same
            raise BackendError(f"{self.name}: {last_words(said)}", INSTALL)
        return b""

    def fetch(self, to: Path) -> bool:
        """As ``App.fetch``."""
        words = (*self.client, "-s", self.serial, "pull", self.report, str(to))
        return _tool(*words).returncode == 0

    def _shell(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return _tool(*self.client, "-s", self.serial, "shell", *words)


class Simctl:
    """The app in a simulator that is booted."""

    def __init__(self, udid: str = "", app: str = APP) -> None:
        self.app, self.udid = app, chosen(simulators(), udid, "simctl").serial
        self.name, self.report = f"simctl:{self.udid}", Path()

    def start(self) -> bytes:
        """As ``App.start``."""
        found = _tool("xcrun", "simctl", "get_app_container", self.udid, self.app, "data")
        if found.returncode:
            raise BackendError(f"{self.name} has no app {self.app}: {_said(found)}", INSTALL)
        self.report = Path(found.stdout.decode().strip()) / APPLE
        self.report.unlink(missing_ok=True)
        words = ("launch", "--terminate-running-process", self.udid, self.app, SELF_TEST)
        _right(_tool("xcrun", "simctl", *words), self.name)
        return b""

    def fetch(self, to: Path) -> bool:
        """As ``App.fetch``."""
        if not self.report.is_file():
            return False
        shutil.copyfile(self.report, to)
        return True


class Devicectl:
    """The app on an iPhone or iPad."""

    def __init__(self, udid: str = "", app: str = APP) -> None:
        self.app, self.udid = app, chosen(iphones(), udid, "devicectl").serial
        self.name = f"devicectl:{self.udid}"

    def start(self) -> bytes:
        """As ``App.start``: no command removes a file there, so the older report is told apart."""
        with scratch() as folder:
            old = folder / "old.json"
            older = old.read_bytes() if self.fetch(old) else b""
        words = ("launch", "--device", self.udid, "--terminate-existing", self.app, SELF_TEST)
        _right(_tool("xcrun", "devicectl", "device", "process", *words), self.name, INSTALL)
        return older

    def fetch(self, to: Path) -> bool:
        """As ``App.fetch``."""
        place = ("--domain-type", "appDataContainer", "--domain-identifier", self.app)
        words = ("--device", self.udid, *place, "--source", APPLE, "--destination", str(to))
        done = _tool("xcrun", "devicectl", "device", "copy", "from", *words)
        return done.returncode == 0 and to.is_file()


APPS: dict[str, Callable[[str, str], App]] = {
    "adb-app": AdbApp,
    "simctl": Simctl,
    "devicectl": Devicectl,
}


@dataclass(frozen=True)
class Waiting:
    """How long a report may take, in seconds."""

    most: float = SECONDS
    pause: float = PAUSE


def app_of(where: str, app: str = APP) -> App | None:
    """The app that a WHERE means, by its id; None if it means another kind of place. Raises
    BackendError."""
    kind, _, detail = where.partition(":")
    return APPS[kind](detail, app) if kind in APPS else None


def checked_id(app: str) -> str:
    """An app's id, for a command of a shell. Raises UsageError for what is none."""
    if APP_ID.fullmatch(app) is None:
        raise UsageError(f"{app!r} is no id of an app", f"an id is like {APP}")
    return app


def report_of(app: App, waiting: Waiting | None = None) -> bytes:
    """Start the self-test and wait for its report. Raises BackendError."""
    waiting, older, text = waiting or Waiting(), app.start(), b""
    end = time.monotonic() + waiting.most
    with scratch() as folder:
        to = folder / "report.json"
        while time.monotonic() < end:
            if app.fetch(to) and (text := to.read_bytes()) != older and _whole(text):
                return text
            time.sleep(waiting.pause)
    if text and text != older:
        raise BackendError(f"{app.name}: the self-test's report is damaged", "run it again")
    raise BackendError(
        f"{app.name}: the self-test wrote no report in {waiting.most:.0f} s",
        "look at the app's screen: it must stay open and the device awake",
    )


def simulators() -> tuple[Seen, ...]:
    """Simulators that are booted. Raises BackendError."""
    said = _right(_tool("xcrun", "simctl", "list", "devices", "booted", "--json"), "simctl")
    return parse_simulators(said)


def parse_simulators(text: str) -> tuple[Seen, ...]:
    """The devices of ``simctl list devices booted --json``. Raises BackendError."""
    try:
        groups = json.loads(text)["devices"].values()
        return tuple(Seen(str(x["udid"]), "device", str(x["name"])) for g in groups for x in g)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BackendError("simctl lists its devices in another form") from None


def iphones() -> tuple[Seen, ...]:
    """iPhones and iPads that this computer is paired with. Raises BackendError."""
    with scratch() as folder:
        to = folder / "devices.json"
        words = ("list", "devices", "--json-output", str(to))
        _right(_tool("xcrun", "devicectl", *words), "devicectl")
        return parse_iphones(to.read_text(encoding="utf-8") if to.is_file() else "")


def parse_iphones(text: str) -> tuple[Seen, ...]:
    """The devices of ``devicectl list devices --json-output``. Raises BackendError."""
    try:
        found: Sequence[Any] = json.loads(text)["result"]["devices"]
        return tuple(
            Seen(str(x["hardwareProperties"]["udid"]), "device", str(x["deviceProperties"]["name"]))
            for x in found
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BackendError("devicectl lists its devices in another form") from None


def _whole(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return last_words((done.stdout + done.stderr).decode(errors="replace"))


def _right(done: subprocess.CompletedProcess[bytes], name: str, hint: str = "") -> str:
    if done.returncode:
        raise BackendError(f"{name}: {_said(done)}", hint or "is it awake, unlocked and trusted?")
    return (done.stdout + done.stderr).decode(errors="replace")


def _tool(*words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command. Raises BackendError if it is not here, or does not end."""
    if shutil.which(words[0]) is None:
        hint = "it comes with Xcode, on a Mac" if words[0] == "xcrun" else "install platform-tools"
        raise BackendError(f"there is no {words[0]} here", hint)
    try:
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"{' '.join(words[:3])} did not answer in 120 s") from None
