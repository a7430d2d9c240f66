"""The output of workers: heard by who listens, kept after a crash."""

from __future__ import annotations

import pytest

from slmkit.errors import BackendError
from slmkit.system import subprocess_worker
from slmkit.system.workers import output
from slmkit.system.workers.output import FOLDER, listening


def talk(crash):
    payload = {"crash": crash}
    subprocess_worker.call("worker_jobs:talk", payload, lambda done, total: None, "talks much")


@pytest.fixture
def kept(monkeypatch, tmp_path):
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    return tmp_path / FOLDER


def test_a_listener_hears_what_a_worker_prints(kept):
    heard = []
    with listening(lambda about, printed: heard.append((about, printed))):
        talk(crash=False)
    talk(crash=False)  # nobody listens any more
    assert {about for about, _ in heard} == {"talks much"}
    assert b"".join(printed for _, printed in heard) == b"hello from the compiler\n"
    assert not kept.exists()


@pytest.mark.parametrize("heard", [True, False])
def test_the_output_of_a_worker_that_crashed_is_kept_and_named(kept, heard):
    with pytest.raises(BackendError) as caught:
        if heard:
            with listening(lambda about, printed: None):
                talk(crash=True)
        else:
            talk(crash=True)
    (path,) = kept.iterdir()
    assert str(path) in caught.value.message
    assert "talks-much" in path.name
    assert path.read_text() == "hello from the compiler\n"


def test_only_the_latest_are_kept(kept, monkeypatch):
    monkeypatch.setattr(output, "KEPT", 2)
    kept.mkdir()
    for day in (1, 2, 3):
        (kept / f"2020010{day}-000000-1-old.log").write_text("old")
    with pytest.raises(BackendError):
        talk(crash=True)
    names = sorted(path.name for path in kept.iterdir())
    assert len(names) == 2 and names[0].startswith("20200103")


def test_without_a_place_the_crash_is_told_all_the_same(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendError, match="SIGSEGV") as caught:
        talk(crash=True)
    assert "all of it" not in caught.value.message
