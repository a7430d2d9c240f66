"""Workers: errors come through as sentences, crashes too, and nothing outlives its parent."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from slmkit.errors import BackendError, SlmkitError
from slmkit.system import subprocess_worker

RUN = "slmkit.parity.execute:run_job"


def call(**payload):
    return subprocess_worker.call(RUN, payload, lambda done, total: None, "does the test's work")


def test_an_error_of_the_job_is_raised_here(tmp_path):
    artifact = {
        "name": "abacus",
        "backend": "",
        "format": "",
        "modes": [],
        "inputs": [],
        "outputs": [],
        "state": {
            "context_length": 16,
            "attention_layers": [],
            "kv_heads": 1,
            "head_width": 8,
            "states": [],
        },
    }
    with pytest.raises(SlmkitError, match="no backend writes 'abacus'"):
        call(artifact=artifact, folder=str(tmp_path), mode="exact")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "out of memory"),
        ("import sys; sys.stdin.readline(); sys.exit('no luck')", "no luck"),
        ("raise RuntimeError('a bug')", "RuntimeError: a bug"),
    ],
)
def test_a_crash_is_a_sentence_about_the_work(monkeypatch, code, said):
    monkeypatch.setattr(subprocess_worker, "START", code)
    with pytest.raises(BackendError) as caught:
        call()
    assert "the process that does the test's work died" in caught.value.message
    assert said in caught.value.message


def test_an_interruption_ends_the_worker(monkeypatch):
    monkeypatch.setattr(
        subprocess_worker, "START", "print('[\"progress\", 1, 2]', flush=True); input(); input()"
    )

    def interrupt(done: int, total: int) -> None:
        assert (done, total) == (1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        subprocess_worker.call(RUN, {}, interrupt, "waits")


def do(job):
    return subprocess_worker.call(f"worker_jobs:{job}", {}, lambda done, total: None, "does it")


def test_a_worker_s_temporary_files_go_with_it(monkeypatch):
    for name in ("KERAS_HOME", "MPLCONFIGDIR", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(name, raising=False)
    found = do("surroundings")
    assert not Path(found["TMPDIR"]).exists()
    assert found["KERAS_HOME"] == found["MPLCONFIGDIR"] == found["TMPDIR"]
    assert found["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("KERAS_HOME", "/mine")
    assert do("surroundings")["KERAS_HOME"] == "/mine"


@pytest.mark.parametrize(
    ("job", "said"), [("fill_disk", "the disk is full"), ("fill_memory", "memory is full")]
)
def test_a_full_disk_and_a_full_memory_are_one_sentence(job, said):
    with pytest.raises(SlmkitError, match=said) as caught:
        do(job)
    assert "report this" not in caught.value.hint


def test_a_crash_without_room_for_temporary_files_is_told_so(monkeypatch):
    monkeypatch.setattr(subprocess_worker, "START", "raise RuntimeError")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(BackendError, match="is full") as caught:
        call()
    assert "TMPDIR" in caught.value.hint
