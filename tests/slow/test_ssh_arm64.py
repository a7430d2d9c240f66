"""ssh:HOST where HOST is arm64: Debian's own sshd for arm64, under qemu, and its Python."""

from __future__ import annotations

import pytest

from arm64_ssh import arm64_ssh
from slmkit.bundle.manifest import read_manifest
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.devices.losses import recorded
from slmkit.devices.places import where
from slmkit.devices.places.ssh import Ssh
from slmkit.planning.plan import Request
from slmkit.system.progress import Silent
from slmkit.workflows.bench import prove_on
from slmkit.workflows.build import build

pytestmark = [pytest.mark.arm64, pytest.mark.longest, pytest.mark.xdist_group("arm64")]


@pytest.fixture(scope="module")
def client(tmp_path_factory, box):
    with arm64_ssh(tmp_path_factory.mktemp("ssh"), box) as found:
        yield found


def test_the_sample_model_is_proved_over_ssh_on_arm64(tmp_path, client, monkeypatch):
    """KleidiAI's kernels compute there: 40.9 dB, and 42.9 here."""
    asked = Request(SAMPLE_MODEL, "android", "int4", out=tmp_path, artifacts=("ort",))
    bundle = build(asked, Silent()).folder
    monkeypatch.setitem(where.PLACES, "ssh", lambda host: Ssh(host, client))
    report = prove_on(bundle, "ssh:far")
    (run,) = report.runs
    assert run.tokens is not None and run.tokens.passed, run.tokens
    assert run.tokens.greedy == run.tokens.decoded == 99
    here = recorded(read_manifest(bundle), "ort", "shipped")
    assert here is not None and run.tokens.snr_db < here.snr_db - 1
    assert any("KleidiAI" in each for each in run.notices)
    assert report.device.abi == "aarch64" and report.device.where == "ssh:far"
    assert "asimddp" in report.device.cpu_features
