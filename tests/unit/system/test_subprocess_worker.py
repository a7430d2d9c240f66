"""Workers: errors come through as sentences, crashes too, and nothing outlives its parent."""

from __future__ import annotations

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
