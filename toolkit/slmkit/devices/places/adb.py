"""adb[:SERIAL]: a phone with Android, or its emulator, by the adb of this computer.

Nothing is installed there: the box of qemu-arm64, which is a small arm64 Linux with Python and the
runtime's wheels, is sent once and unpacked in a folder for temporary files. Its programs bring
their own C library, since Android's is another.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit.devices.places import shell
from slmkit.devices.places.box import Box, check_wheels, open_box
from slmkit.devices.places.place import Payload, last_words
from slmkit.errors import BackendError, RefusedError
from slmkit.system.scratch import scratch

FOLDER = "/data/local/tmp/slmkit"
LIBRARIES = ("guest/lib/aarch64-linux-gnu", "guest/usr/lib/aarch64-linux-gnu")
LOADER = "guest/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1"
SENT = ("guest/lib", "guest/usr/lib", "guest/usr/bin", "site")  # of the box
EXIT = "slmkit-exit="  # the exit code of a command, as some devices' adb loses it
ASKS = {  # states of a device that cannot be used, and what to do
    "unauthorized": "unlock it, and allow this computer's key",
    "offline": "plug it in again, or adb reconnect",
    "no permissions": "give your user the right to the USB device (udev), or restart adb's server",
    "authorizing": "wait, and allow this computer's key on its screen",
    "recovery": "boot Android",
    "sideload": "boot Android",
}

NONE = {  # what to do where a tool sees no device
    "adb": "plug one in with USB debugging on",
    "adb-app": "plug one in with USB debugging on",
    "simctl": "boot one: xcrun simctl boot NAME",
    "devicectl": "plug one in, unlock it, and trust this computer",
}


@dataclass(frozen=True)
class Seen:
    """A device in adb's list."""

    serial: str
    state: str  # "device", or why it cannot be used
    about: str  # what adb says of it


def parse_devices(text: str) -> tuple[Seen, ...]:
    """The devices of ``adb devices -l``."""
    found = []
    for line in text.splitlines():
        if not line.strip() or line.startswith(("List of devices", "*")):
            continue
        serial, *rest = line.split(maxsplit=1)
        words = rest[0].strip() if rest else ""
        known = next((state for state in ("device", *ASKS) if words.startswith(state)), "")
        state = known or words.partition(" ")[0]
        found.append(Seen(serial, state, words.removeprefix(state).strip()))
    return tuple(found)


def chosen(seen: Sequence[Seen], serial: str, kind: str = "adb") -> Seen:
    """The device that is meant; without a serial, the only one. ``kind``: of the place. Raises
    BackendError."""
    tool = kind.partition("-")[0]
    names = ", ".join(each.serial for each in seen)
    if serial:
        found = [each for each in seen if each.serial == serial]
        if not found:
            raise BackendError(f"{tool} sees no device {serial}", f"it sees: {names or 'none'}")
    else:
        found = list(seen)
    if not found:
        raise BackendError(f"{tool} sees no device", NONE[kind])
    if len(found) > 1:
        raise BackendError(
            f"{tool} sees {len(found)} devices: {names}",
            f"choose one: --on {kind}:{found[0].serial}",
        )
    (device,) = found
    if device.state != "device":
        raise BackendError(
            f"the device {device.serial} is {device.state}",
            ASKS.get(device.state, "adb devices -l tells more"),
        )
    return device


def seen_devices(client: Sequence[str] = ("adb",)) -> tuple[Seen, ...]:
    """The devices that adb sees. Raises BackendError if there is no adb."""
    return parse_devices(_adb(client, "adb", "devices", "-l"))


class Adb:
    """One device. ``client``: the command of adb."""

    system = "Linux"  # of the box

    def __init__(
        self, serial: str = "", client: Sequence[str] = ("adb",), box: Box | None = None
    ) -> None:
        self.client, self.box, self.emulated = tuple(client), box or open_box(), ""
        self.serial = chosen(seen_devices(self.client), serial).serial
        self.name = f"adb:{self.serial}"
        machine = self.run("uname -m").strip()
        if machine != "aarch64":
            raise RefusedError(
                f"{self.name} is {machine}: the box of wheels is for arm64",
                "choose a 64-bit phone, or an emulator with an arm64 image",
            )
        key = hashlib.sha256(repr((self.box.python, self.box.requirements)).encode()).hexdigest()
        self.there = f"{FOLDER}/box-{key[:12]}"

    def prepare(self, payload: Payload) -> None:
        """Send the box once, then the files."""
        check_wheels(self.box, payload.requirements)
        if "there" not in self.run(f"if [ -f {self.there}/done ]; then echo there; fi"):
            self._send_box()
        shell.bring(self, payload.files, self._folder(payload))

    def execute(self, payload: Payload, job: Mapping[str, Any], out: Path) -> None:
        """Run a job there, by the box's own loader."""
        libraries = ":".join(f"{self.there}/{each}" for each in LIBRARIES)
        python = (
            f"PYTHONHOME={self.there}/guest/usr PYTHONPATH={self.there}/site "
            f"PYTHONDONTWRITEBYTECODE=1 {self.there}/{LOADER} --library-path {libraries} "
            f"{self.there}/guest/usr/bin/python{self.box.python}"
        )
        shell.execute(self, python, payload, self._folder(payload), job, out)

    def run(self, command: str, timeout: float = 60) -> str:
        """As ``Shell.run``."""
        wrapped = f"{{ {command}\n}} 2>&1; echo {EXIT}$?"
        said = self._adb("shell", wrapped, timeout=timeout)
        words, mark, code = said.rpartition(EXIT)
        if not mark:
            raise BackendError(f"{self.name} was lost: {last_words(said)}", "plug it in again")
        if code.strip() != "0":
            if "No space left" in words:
                raise shell.full_disk(self.name, 0)
            raise BackendError(f"{self.name}: {last_words(words)}")
        return words.replace("\r\n", "\n")

    def push(self, path: Path, to: str) -> None:
        """As ``Shell.push``."""
        self._adb("push", str(path), to, timeout=shell.SECONDS, size=path.stat().st_size)

    def pull(self, path: str, to: Path) -> None:
        """As ``Shell.pull``."""
        self._adb("pull", path, str(to), timeout=600)

    def _folder(self, payload: Payload) -> str:
        return f"{FOLDER}/{shell.payload_key(payload)}"

    def _send_box(self) -> None:
        """Pack the box, send it by its hash, and unpack it there: whole or not at all."""
        new = shlex.quote(f"{self.there}.new")
        with scratch() as folder:
            packed = folder / "box.tar.gz"
            with tarfile.open(packed, "w:gz", compresslevel=1) as archive:
                for name in SENT:
                    archive.add(self.box.folder / name, name)
            shell.bring(self, {packed.name: packed}, FOLDER)
        self.run(
            f"rm -rf {new} {self.there} && mkdir -p {new} && tar -xzf {FOLDER}/box.tar.gz -C {new} "
            f"&& touch {new}/done && mv {new} {self.there} && rm {FOLDER}/box.tar.gz",
            timeout=1800,
        )

    def _adb(self, *words: str, timeout: float = 60, size: int = 0) -> str:
        client = (*self.client, "-s", self.serial)
        return _adb(client, self.name, *words, timeout=timeout, size=size)


def _adb(client: Sequence[str], name: str, *words: str, timeout: float = 60, size: int = 0) -> str:
    """The stdout of an adb command. ``size``: of the file that it sends. Raises BackendError."""
    if shutil.which(client[0]) is None:
        raise BackendError(
            "there is no adb here", "install Android's platform-tools, or Debian's package adb"
        )
    try:
        done = subprocess.run(
            [*client, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"{name} did not answer in {timeout:.0f} s", "is it awake?") from None
    said = (done.stdout + done.stderr).decode(errors="replace")
    if "No space left" in said and done.returncode:
        raise shell.full_disk(name, size)
    if done.returncode:
        raise BackendError(f"{name}: {last_words(said)}", "adb devices -l tells its state")
    return done.stdout.decode(errors="replace")
