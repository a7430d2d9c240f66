"""The runtimes' own arm64 wheels under qemu, through the commands that users type."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from arm64_machine import box_or_skip
from slmkit.bundle.verify import verify
from slmkit.cli.main import main
from slmkit.devices.places.box import Box
from slmkit.devices.places.listing import box_requirements
from slmkit.devices.places.qemu_arm64 import PROFILES, QemuArm64, qemu_version
from slmkit.errors import BackendError, RefusedError
from slmkit.workflows.bench import prove_on
from tiny_bundles import ort_bundle

pytestmark = pytest.mark.arm64
OLDER = "7.2.22"  # of Debian 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache's folder in which the box is set up."""
    folder = tmp_path_factory.mktemp("arm64")
    box_or_skip(folder / "devices" / "qemu-arm64", list(box_requirements()))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture(autouse=True)
def its_cache(own_folders, cache, monkeypatch):
    monkeypatch.setenv("SLMKIT_CACHE", str(cache))


def test_parity_on_a76_joins_the_bundle(bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    done = CliRunner().invoke(main, ["parity", str(copy), "--on", "qemu-arm64", "--json"])
    assert done.exit_code == 0, done.output + done.stderr
    found = json.loads(done.stdout)
    assert found["device"]["abi"] == "aarch64" and "asimddp" in found["device"]["cpu_features"]
    assert found["device"]["emulated"].endswith("cortex-a76")
    (run,) = found["runs"]
    assert run["tokens"]["failures"] == [] and run["tokens"]["snr_db"] > 20
    assert (copy / "proof" / "devices" / "qemu-arm64-a76.json").is_file()
    verify(copy)


def test_a_processor_without_dot_products_rounds_nothing(bundle):
    """No kernel of 8-bit activations is left: the artifact is as exact as its codes."""
    (run,) = prove_on(bundle, "qemu-arm64:a53").runs
    assert run.tokens is not None and run.tokens.snr_db > 100


def test_places_are_ready(cache):
    done = CliRunner().invoke(main, ["device", "list", "--json"])
    states = {each["where"]: each["state"] for each in json.loads(done.stdout)}
    assert states["qemu-arm64:a76"] == "ready"


def test_an_emulator_that_computes_wrongly_is_refused(cache, monkeypatch):
    monkeypatch.setattr("slmkit.devices.places.qemu_arm64.qemu_version", lambda _: OLDER)
    assert PROFILES["sme"].least_qemu == 10
    with pytest.raises(RefusedError, match=r"sme needs qemu 10, and this is 7\.2\.22"):
        QemuArm64("sme")
    QemuArm64("sve2")


def test_a_box_of_other_versions_is_refused(bundle, monkeypatch):
    place = QemuArm64("a76")
    older = Box(place.box.folder, place.box.python, ("onnxruntime==1.0", "numpy"))
    monkeypatch.setattr("slmkit.devices.places.qemu_arm64.open_box", lambda: older)
    with pytest.raises(BackendError, match="has no onnxruntime=="):
        prove_on(bundle, "qemu-arm64")


def test_something_else_by_its_name_is_no_qemu(tmp_path):
    other = tmp_path / "qemu-aarch64"
    other.write_text("#!/bin/sh\necho hello\n", encoding="utf-8")
    other.chmod(0o755)
    with pytest.raises(BackendError, match="is no qemu: hello"):
        qemu_version(other)
    with pytest.raises(BackendError, match="cannot be run"):
        qemu_version(tmp_path / "none")
