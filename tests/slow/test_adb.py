"""adb with the real client and the real arm64 adbd: what is sent, and all that goes wrong."""

from __future__ import annotations

import os
import threading
import time

import pytest

from adb_device import SERIAL, adb_device, prepared
from slmkit.devices.places import shell, where
from slmkit.devices.places.adb import FOLDER, Adb
from slmkit.errors import BackendError
from slmkit.workflows.bench import prove_on
from tiny_bundles import ort_bundle

pytestmark = [pytest.mark.arm64, pytest.mark.xdist_group("arm64")]


@pytest.fixture(scope="module")
def parts(tmp_path_factory, box):
    folder = tmp_path_factory.mktemp("adb")
    return (folder, *prepared(folder, box))


@pytest.fixture(scope="module")
def device(parts):
    with adb_device(*parts) as found:
        yield found


@pytest.fixture
def place(device, box):
    return Adb(SERIAL, device.client, box)


def test_an_artifact_is_proved_over_there(tmp_path, device, box, monkeypatch):
    """The box is sent once: a second run sends only the job. A stale file is sent again."""
    bundle = ort_bundle(tmp_path)
    monkeypatch.setitem(where.PLACES, "adb", lambda serial: Adb(serial, device.client, box))
    pushed: list[str] = []
    push = Adb.push

    def counted(self, path, to):
        pushed.append(to)
        push(self, path, to)

    monkeypatch.setattr(Adb, "push", counted)
    report = prove_on(bundle, "adb")
    (run,) = report.runs
    assert run.tokens is not None and run.tokens.passed, run.tokens
    assert report.device.where == f"adb:{SERIAL}" and report.device.abi == "aarch64"
    assert "asimddp" in report.device.cpu_features and report.not_executed == ()
    assert any("box.tar.gz" in name for name in pushed)
    there = Adb(SERIAL, device.client, box)
    engine = there.run(f"ls {FOLDER}/*/engine.py").split()[0]
    there.run(f"echo stale > {engine}")
    pushed.clear()
    assert prove_on(bundle, f"adb:{SERIAL}").runs[0].tokens == run.tokens
    assert {name.rpartition("/")[2].removesuffix(shell.PART) for name in pushed} == {"engine.py"}


def test_only_what_is_missing_or_stale_is_sent(place, tmp_path):
    files = {name: tmp_path / name for name in ("a b", "c")}
    for name, path in files.items():
        path.write_text(name * 100, encoding="utf-8")
    folder = f"{FOLDER}/files"
    assert shell.bring(place, files, folder) == ["a b", "c"]
    place.run(f"echo stale > '{folder}/a b'; echo half > {folder}/c{shell.PART}; rm {folder}/c")
    assert shell.bring(place, files, folder) == ["a b", "c"]
    assert shell.bring(place, files, folder) == []
    place.pull(f"{folder}/c", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == files["c"].read_bytes()


def test_a_command_s_exit_code_and_words_come_back(place):
    assert place.run("echo one; echo two").split() == ["one", "two"]
    with pytest.raises(BackendError, match=f"adb:{SERIAL}: some words"):
        place.run("echo some words >&2; (exit 7)")


def test_a_full_device_is_said_and_keeps_what_was_there(place, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom(8_000_000))
    folder = f"{FOLDER}/full"
    place.run(f"mkdir -p {folder}; echo older > {folder}/large")
    place.run("dd if=/dev/zero of=/data/fill bs=1000000 2>/dev/null || true", timeout=300)
    try:
        with pytest.raises(BackendError, match="has no space left") as error:
            shell.bring(place, {"large": file}, folder)
        assert "free some there" in error.value.hint
        assert place.run(f"cat {folder}/large").strip() == "older"
    finally:
        place.run("rm -f /data/fill")
    assert shell.bring(place, {"large": file}, folder) == ["large"]


def test_two_devices_need_a_serial(device, box):
    device.adb("connect", "localhost:5555")  # the same one, by another name
    try:
        with pytest.raises(BackendError, match="adb sees 2 devices") as error:
            Adb("", device.client, box)
        assert "--on adb:" in error.value.hint
        assert Adb(SERIAL, device.client, box).serial == SERIAL
        with pytest.raises(BackendError, match="adb sees no device emulator-5554"):
            Adb("emulator-5554", device.client, box)
    finally:
        device.adb("disconnect", "localhost:5555")


def test_no_device_is_said(device, box):
    device.adb("disconnect")
    try:
        with pytest.raises(BackendError, match="adb sees no device"):
            Adb("", device.client, box)
    finally:
        device.adb("connect", SERIAL)


def test_a_device_that_disappears_in_the_middle_is_said(parts, box):
    with adb_device(*parts) as device:
        place = Adb("", device.client, box)

        def unplug() -> None:
            time.sleep(2)
            device.adb("disconnect", SERIAL)

        gone = threading.Thread(target=unplug)
        gone.start()
        with pytest.raises(BackendError, match=r"was lost|adb:127\.0\.0\.1:5555: "):
            place.run("sleep 30")
        gone.join()
        with pytest.raises(BackendError):
            place.run("true")
