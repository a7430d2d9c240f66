"""Scratch folders: gone with their process, however it ends, and never taken from a living one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from slmkit.system.scratch import LOCK, PREFIX, UNLOCKED, clear_leftovers, owned_folder, scratch

OPEN_ONE = """
import sys
from pathlib import Path
from slmkit.system.scratch import scratch
with scratch(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("done")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process with a scratch folder in ``tmp_path``, and that folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN_ONE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with process:
        assert process.stdout
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_a_scratch_folder_is_gone_afterwards(tmp_path):
    with pytest.raises(RuntimeError), scratch(tmp_path) as folder:
        (folder / "some").mkdir()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_inner_one_lies_in_the_outer_one(tmp_path):
    with scratch(tmp_path) as outer, scratch() as inner:
        assert inner.parent == outer
    with scratch() as alone:
        assert alone.parent == Path(tempfile.gettempdir())


def test_a_living_process_keeps_its_folder_and_a_killed_one_does_not(other, tmp_path):
    process, theirs = other
    with scratch(tmp_path):
        assert (theirs / "half").is_file()
    process.kill()
    process.wait()
    assert theirs.is_dir()
    with scratch(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def test_a_new_folder_has_a_moment_to_be_locked(tmp_path):
    folder = tmp_path / f"{PREFIX}new"
    folder.mkdir()
    clear_leftovers(tmp_path)
    assert folder.is_dir()
    before = folder.stat().st_mtime - UNLOCKED - 1
    os.utime(folder, (before, before))
    clear_leftovers(tmp_path)
    assert not folder.exists()


def test_other_folders_are_never_cleared(tmp_path):
    for name in ("mine", ".slmkit", "slmkit-1"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    clear_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_prefix_is_no_pattern(tmp_path):
    with owned_folder(tmp_path, ".a[b]-") as folder:
        assert (folder / LOCK).is_file()
    (tmp_path / ".a[b]-left").mkdir()
    os.utime(tmp_path / ".a[b]-left", (0, 0))
    clear_leftovers(tmp_path, ".a[b]-")
    assert list(tmp_path.iterdir()) == []


def test_a_thread_s_folder_outlives_that_of_another_thread():
    """Two compilers of one artifact run in threads, and the first to end takes its folder away."""
    opened, ended, checked = threading.Event(), threading.Event(), threading.Event()
    found: list[bool] = []

    def first() -> None:
        with scratch():
            opened.set()
            checked.wait(10)
        ended.set()

    def second() -> None:
        opened.wait(10)
        with scratch() as folder:
            checked.set()
            ended.wait(10)
            (folder / "file").write_bytes(b"1")
            found.append((folder / "file").is_file())

    threads = [threading.Thread(target=each) for each in (first, second)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == [True]
