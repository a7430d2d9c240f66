"""The options of long work: what is shown of it, and how much of this computer it takes."""

from __future__ import annotations

import re

import pytest

from command_line import slmkit
from slmkit.cli.work import Work
from slmkit.errors import BackendError, UsageError
from slmkit.system import subprocess_worker
from slmkit.system.jobs import cores


def talk(crash=False):
    payload = {"crash": crash}
    subprocess_worker.call("worker_jobs:talk", payload, lambda done, total: None, "talks")


def test_limits_are_the_machine_s_or_those_that_were_asked_for():
    assert Work().limits.jobs == cores() and Work().limits.memory is None
    assert Work(jobs=3, memory=1.5).limits.jobs == 3
    assert Work(memory=1.5).limits.budget == 1_500_000_000


@pytest.mark.parametrize("memory", [0, -1, float("nan"), float("inf")])
def test_a_memory_that_is_none_is_refused(memory):
    with pytest.raises(UsageError, match="no amount of memory"):
        _ = Work(memory=memory).limits


def test_verbose_prints_what_workers_print(capfd):
    with Work(verbose=True).shown():
        talk()
    with Work().shown():
        talk()
    assert capfd.readouterr().err.count("hello from the compiler") == 1


def test_verbose_and_quiet_exclude_each_other():
    with pytest.raises(UsageError, match="exclude"), Work(verbose=True, quiet=True).shown():
        pytest.fail("work began")


def test_a_log_has_stages_output_and_the_error_each_with_its_time(tmp_path, monkeypatch):
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "build.log"
    with pytest.raises(BackendError), Work(quiet=True, log=path).shown() as progress:
        progress.stage("first", 1)
        with progress.branch() as own:
            own.stage("beside", 1)
            talk(crash=True)
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    told = [line[9:] for line in lines]
    assert told[:3] == ["slmkit: first", "slmkit: beside", "hello from the compiler"]
    assert told[3].startswith("Error: the process that talks died (SIGSEGV)")


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    with (
        pytest.raises(UsageError, match="cannot write the log"),
        Work(log=tmp_path / "missing" / "build.log").shown(),
    ):
        pytest.fail("work began")


def test_quiet_prints_the_bundle_s_folder_alone(tiny, tmp_path):
    words = ["build", "--target", "android", "--artifacts", "ort", "--model", str(tiny("llama"))]
    more = ["--out", str(tmp_path / "out"), "--log", str(tmp_path / "log"), "-q", "--jobs", "1"]
    done = slmkit(*words, *more)
    (bundle,) = (tmp_path / "out").iterdir()
    assert done.stdout.strip() == str(bundle) and done.stderr == ""
    assert "slmkit: run ort, exact" in (tmp_path / "log").read_text()
