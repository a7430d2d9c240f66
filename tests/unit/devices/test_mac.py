"""ssh:HOST where HOST is a Mac: the commands, and the payload of coreml in a process of its own.

Stood in for: the far shell's ``uname``, and ``MLModel`` of coremltools, which predicts on macOS
alone; an evaluator of the same package takes its place. No Mac was there.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

import slmkit_coreml
from slmkit.bundle.manifest import read_manifest
from slmkit.devices.losses import recorded
from slmkit.devices.places import where
from slmkit.devices.places.listing import listed
from slmkit.devices.places.ssh import FOLDER, Ssh
from slmkit.errors import BackendError, RefusedError
from slmkit.planning.plan import Request
from slmkit.system.progress import Silent
from slmkit.workflows.bench import prove_on
from slmkit.workflows.build import build
from tiny_bundles import ort_bundle
from tiny_models import tiny_config, write_checkpoint

pytest.importorskip("coremltools", reason='pip install "slmkit[coreml]"')
SITE = """
import sys
if any(word.endswith("run.py") for word in sys.orig_argv):
    sys.path += {paths!r}
    from pathlib import Path
    import coremltools
    from slmkit_coreml.verify.evaluator import Package
    STATES = {{}}

    class MLModel:
        def __init__(self, path, compute_units, function_name):
            assert compute_units is coremltools.ComputeUnit[{units!r}]
            self.package = STATES.setdefault(path, Package(Path(path), "float16"))
            self.name = function_name
        def make_state(self):
            self.package.reset()
            return self.package
        def predict(self, data, state=None):
            assert state is self.package
            return self.package.run(self.name, data)

    coremltools.models.MLModel = MLModel
"""


class Mac:
    """A client of ssh whose far end is a folder here, by a shell that takes itself for macOS'."""

    def __init__(self, folder: Path, system: str = "Darwin", units: str = "CPU_AND_NE") -> None:
        self.home, self.log = folder / "home", folder / "log"
        programs, site = folder / "bin", folder / "site"
        for each in (self.home, programs, site):
            each.mkdir(parents=True)
        paths = [str(Path(slmkit_coreml.__file__).parents[1]), str(_toolkit())]
        (site / "sitecustomize.py").write_text(
            SITE.format(paths=paths, units=units), encoding="utf-8"
        )
        self.python = f'exec env PYTHONPATH={site} {shlex.quote(sys.executable)} "$@"'
        _program(programs / "uname", f"echo {system}")
        _program(programs / "python3", self.python)
        self.programs, self.ssh = programs, folder / "ssh"
        _program(
            self.ssh,
            f'for word; do command="$word"; done\necho "$command" >> {self.log}\n'
            f'cd {self.home} && PATH={programs}:$PATH exec sh -c "$command"',
        )

    @property
    def commands(self) -> list[str]:
        """All that was asked of the far shell."""
        return self.log.read_text(encoding="utf-8").splitlines()


def _toolkit() -> Path:
    import slmkit

    return Path(slmkit.__file__).parents[1]


def _program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def use(monkeypatch, mac: Mac) -> str:
    monkeypatch.setitem(where.PLACES, "ssh", lambda host: Ssh(host, (str(mac.ssh),)))
    return "ssh:mac"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    model = write_checkpoint(folder / "tiny", tiny_config("granite-hybrid-moe"))
    asked = Request(model, "ios", "int4", folder / "dist", 64, artifacts=("coreml",))
    return build(asked, Silent()).folder


def test_a_mac_runs_the_packages_themselves(bundle, tmp_path, monkeypatch):
    """Prefill, decode, states and experts: the same logits as the evaluator gave at the build."""
    mac = Mac(tmp_path)
    report = prove_on(bundle, use(monkeypatch, mac))
    (run,) = report.runs
    here = recorded(read_manifest(bundle), "coreml", run.mode)
    assert here is not None and run.tokens is not None and run.tokens.passed, run.tokens
    assert run.tokens.snr_db == pytest.approx(here.snr_db, abs=0.3)
    assert run.runtime.startswith("Core ML of macOS") and "cpu_and_ne" in run.runtime
    assert any("never executed" in each for each in run.notices)
    assert "uname -s" in mac.commands
    sent = {path.name for path in (mac.home / FOLDER).rglob("*") if path.is_file()}
    assert {"run.py", "engine.py", "model.mlmodel", "weight.bin"} <= sent
    (job,) = (mac.home / FOLDER).rglob("job.json")
    assert json.loads(job.read_text())["artifact"]["facts"]["compute_units"] == "cpu_and_ne"


def test_other_systems_than_macos_are_sent_no_package(bundle, tmp_path, monkeypatch):
    with pytest.raises(RefusedError, match="coreml: its runtime needs Darwin, not Linux"):
        prove_on(bundle, use(monkeypatch, Mac(tmp_path, "Linux")))


def test_a_mac_runs_the_artifacts_of_others_too(tmp_path, monkeypatch):
    (run,) = prove_on(ort_bundle(tmp_path), use(monkeypatch, Mac(tmp_path / "mac"))).runs
    assert run.name == "ort" and run.tokens is not None and run.tokens.passed
    assert run.notices == ()


def test_wheels_are_asked_for_in_this_computer_s_version(tmp_path):
    """The Mac's first Python is too old, as Xcode's is; the one behind it lacks the wheels."""
    mac = Mac(tmp_path)
    said = f'echo python "$@" >> {tmp_path / "asked"}\n'
    _program(mac.programs / "python3", f"{said}exit 1")
    place = Ssh("mac", (str(mac.ssh),))
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("slmkit.devices.places.ssh.OWN", ("python3", str(mac.programs / "newer")))
        with pytest.raises(BackendError, match=r"ssh:mac has no Python 3\.10 or newer") as error:
            place._python(("coremltools==1.0",))
        assert "PATH" in error.value.hint
        _program(
            mac.programs / "newer",
            f'case "$*" in *"import sys"*) exit 0;; *"-m venv"*) for f; do last=$f; done; '
            f"mkdir -p $last/bin; ln -s {mac.programs / 'newer'} $last/bin/python;; "
            f'*"-m pip"*) echo "$@" >> {tmp_path / "pip"};; esac',
        )
        python = place._python(("coremltools==1.0", "numpy"))
    assert python.startswith(f"{FOLDER}/env-") and python.endswith("/bin/python")
    asked = (tmp_path / "pip").read_text(encoding="utf-8")
    assert asked.split() == ["-m", "pip", "install", "--quiet", "coremltools==1.0", "numpy"]


def test_the_list_says_that_no_mac_was_there():
    (row,) = [each for each in listed() if each.where == "ssh:HOST"]
    assert "coreml" in row.runs and "coreml on a Mac: commands tested, never executed" in row.about
    boxes = [each for each in listed() if each.where.startswith("qemu-arm64")]
    assert boxes and all("coreml" not in each.runs for each in boxes)
