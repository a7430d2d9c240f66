"""ssh:HOST with a real sshd: what is sent, what is sent again, and a host that is not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from slmkit.bundle.manifest import read_manifest
from slmkit.devices.losses import recorded
from slmkit.devices.places import shell, where
from slmkit.devices.places.ssh import FOLDER, Ssh
from slmkit.errors import BackendError, UsageError
from slmkit.workflows.bench import prove_on
from ssh_server import ssh_server
from tiny_bundles import ort_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Those who log in find this Python first: it has the wheels in the right version."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with ssh_server(tmp_path_factory.mktemp("ssh"), path) as found:
        yield found


@pytest.fixture
def far(server, monkeypatch):
    monkeypatch.setitem(where.PLACES, "ssh", lambda host: Ssh(host, server.client))
    return Ssh("far", server.client)


def test_an_artifact_is_proved_over_there(bundle, server, far):
    report = prove_on(bundle, "ssh:far")
    (run,) = report.runs
    assert run.tokens is not None and run.tokens.passed
    here = recorded(read_manifest(bundle), "ort", "shipped")
    assert here is not None and run.tokens.snr_db == pytest.approx(here.snr_db, abs=0.3)
    assert report.device.where == "ssh:far" and report.device.emulated == ""
    sent = {path.name for path in (server.home / FOLDER).rglob("*") if path.is_file()}
    assert {"run.py", "engine.py", "model.onnx", "model.onnx.data"} <= sent
    assert not [name for name in sent if name.endswith(shell.PART)]


def test_only_what_is_missing_or_stale_is_sent(server, far, tmp_path):
    files = {name: tmp_path / name for name in ("a", "b/c", "d")}
    for number, path in enumerate(files.values()):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([number]) * 1000)
    assert shell.bring(far, files, "x y") == ["a", "b/c", "d"]
    assert shell.bring(far, files, "x y") == []
    (server.home / "x y" / "a").write_bytes(b"stale")
    (server.home / "x y" / "d").unlink()
    assert shell.bring(far, files, "x y") == ["a", "d"]
    for name, path in files.items():
        assert (server.home / "x y" / name).read_bytes() == path.read_bytes()


def test_a_file_that_was_cut_off_is_continued(server, far, tmp_path, monkeypatch):
    file, begun = tmp_path / "large", 600_000
    file.write_bytes(os.urandom(1_000_000))
    (server.home / "cut").mkdir()
    part = server.home / "cut" / f"large{shell.PART}"
    part.write_bytes(file.read_bytes()[:begun])
    inode = part.stat().st_ino
    assert shell.bring(far, {"large": file}, "cut") == ["large"]
    arrived = server.home / "cut" / "large"
    assert arrived.stat().st_ino == inode and arrived.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("size", [600_000, 2_000_000])
def test_a_part_of_another_file_is_thrown_away(server, far, tmp_path, size):
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1_000_000))
    (server.home / "other").mkdir(exist_ok=True)
    (server.home / "other" / "file").unlink(missing_ok=True)
    (server.home / "other" / f"file{shell.PART}").write_bytes(b"\0" * size)
    shell.bring(far, {"file": file}, "other")
    assert (server.home / "other" / "file").read_bytes() == file.read_bytes()


def test_a_full_disk_is_said(far, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(bytes(5_000_000))
    with pytest.raises(BackendError, match=r"ssh:far has no space left for a file of 5 MB"):
        far.push(file, "/dev/full")


def test_words_of_a_failing_command_are_handed_on(far):
    with pytest.raises(BackendError, match="ssh:far: some words"):
        far.run("echo some words >&2; exit 7")


def test_a_host_that_is_not_there_or_asks_is_said(server, tmp_path):
    with pytest.raises(BackendError, match="cannot be reached, or was lost") as error:
        Ssh("127.0.0.1", ("ssh", "-F", "none", "-p", "1")).run("true")
    assert "without a question" in error.value.hint
    config = Path(server.client[2]).read_text(encoding="utf-8")
    other = tmp_path / "ssh_config"
    other.write_text(config.replace("IdentityFile", "IdentityFile /none #"), encoding="utf-8")
    with pytest.raises(BackendError, match="Permission denied"):
        Ssh("far", ("ssh", "-F", str(other))).run("true")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x"])
def test_a_host_that_is_an_option_is_refused(host):
    with pytest.raises(UsageError, match="ssh needs a host"):
        Ssh(host)


@pytest.mark.own_environment
def test_wheels_are_installed_where_they_are_missing(bundle, server, far):
    """A Python without them gets an environment of its own, once."""
    bare = server.home / "bare"
    bare.mkdir()
    python = bare / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n', encoding="utf-8")
    python.chmod(0o755)

    class Bare(Ssh):
        def run(self, command: str, timeout: float = 60) -> str:
            return super().run(f'PATH="{bare}:$PATH"; {command}', timeout)

    place = Bare("far", server.client)
    try:
        first = place._python(("numpy",))
    except BackendError as error:
        pytest.skip(f"the index cannot be reached: {error.message}")
    assert first != "python3" and place._python(("numpy",)) == first
    assert place.run(f"{first} -c 'import numpy; print(numpy.__name__)'").strip() == "numpy"
