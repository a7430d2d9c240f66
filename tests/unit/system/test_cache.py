"""The cache: entries appear whole, are found by content, never damaged; the oldest go first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from slmkit.errors import SlmkitError
from slmkit.system import cache as module
from slmkit.system.cache import HASHES, Cache, default_folder, folder_size, key_of


def fill(cache, key, size=10, age=0):
    with cache.making("codes", key) as making:
        (making / "file").write_bytes(bytes(size))
    path = cache.folder / f"codes-{key}"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))


def entries(cache):
    """All that is visible in the cache, locks left out."""
    locks = (module.IN_USE, module.CHANGING)
    return {path.name for path in cache.folder.iterdir() if path.name not in locks}


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def test_an_entry_is_found_once_it_is_whole(cache):
    assert cache.find("codes", "a") is None
    with cache.making("codes", "a") as making:
        (making / "file").write_bytes(b"1")
        assert cache.find("codes", "a") is None
    assert (cache.find("codes", "a") / "file").read_bytes() == b"1"
    assert cache.find("artifact", "a") is None


def test_a_failure_leaves_nothing(cache):
    with pytest.raises(RuntimeError), cache.making("codes", "a"):
        raise RuntimeError
    assert entries(cache) == set()


def test_of_two_makers_the_first_one_stays(cache):
    with cache.making("codes", "a") as first, cache.making("codes", "a") as second:
        (first / "file").write_bytes(b"1")
        (second / "file").write_bytes(b"2")
    assert (cache.find("codes", "a") / "file").read_bytes() == b"2"  # the inner one ended first
    assert entries(cache) == {"codes-a"}


def test_the_longest_unused_entries_go_first(cache):
    for age, key in enumerate("cba"):
        fill(cache, key, size=100, age=100 * age)
    cache.find("codes", "a")  # used just now
    cache.prune(limit=650)  # bytes, those of the hashes included
    assert entries(cache) == {"codes-a", "codes-c"}


def test_pruning_spares_what_is_being_made(cache):
    fill(cache, "a", size=100)
    with cache.making("codes", "b") as making:
        cache.prune(limit=1)
        assert making.is_dir()
    assert cache.find("codes", "b")


def test_keys_follow_the_content_and_not_the_order():
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})


def test_the_folder_is_chosen_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("SLMKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "slmkit"
    monkeypatch.setenv("SLMKIT_CACHE", "")  # is not the current folder
    assert default_folder() == tmp_path / "xdg" / "slmkit"
    assert folder_size(tmp_path) == 0


def flipped(entry):
    data = bytearray((entry / "file").read_bytes())
    data[3] ^= 1
    (entry / "file").write_bytes(data)


def linked(entry):
    (entry / "file").rename(entry.parent / "elsewhere")
    (entry / "file").symlink_to(entry.parent / "elsewhere")


def piped(entry):
    (entry / "file").unlink()
    os.mkfifo(entry / "file")


DAMAGES = {
    "flipped": flipped,
    "shorter": lambda entry: os.truncate(entry / "file", 5),
    "gone": lambda entry: (entry / "file").unlink(),
    "more": lambda entry: (entry / "more").write_bytes(b"1"),
    "linked": linked,
    "piped": piped,
    "hashes gone": lambda entry: (entry / HASHES).unlink(),
    "hashes cut": lambda entry: os.truncate(entry / HASHES, 9),
    "hashes of another form": lambda entry: (entry / HASHES).write_text('{"file": 3}'),
    "hashes of no table": lambda entry: (entry / HASHES).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_made_again_and_said(cache, tmp_path, caplog, damage):
    fill(cache, "a")
    damage(cache.folder / "codes-a")
    (tmp_path / "place").mkdir()
    assert not cache.copy("codes", "a", tmp_path / "place")
    assert "codes-a was damaged: it is made again" in caplog.text
    fill(cache, "a")
    assert cache.copy("codes", "a", tmp_path / "place")
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["file"]
    assert (tmp_path / "place" / "file").read_bytes() == bytes(10)


def test_of_many_damaged_entries_of_a_kind_the_first_is_named(cache, caplog):
    for key in ("a", "b", "c"):
        fill(cache, key)
        flipped(cache.folder / f"codes-{key}")
        assert cache.find("codes", key) is None
    assert [record.args for record in caplog.records] == [(cache.folder / "codes-a",)]


def test_a_copy_that_differs_from_its_hash_is_no_entry(cache, tmp_path, monkeypatch):
    fill(cache, "a")
    flipped(cache.folder / "codes-a")
    monkeypatch.setattr(module, "intact", lambda entry: True)  # its times tell nothing
    (tmp_path / "place").mkdir()
    assert not cache.copy("codes", "a", tmp_path / "place")
    assert list((tmp_path / "place").iterdir()) == [] and entries(cache) == set()


def test_an_entry_that_nobody_touched_is_not_read_again(cache, monkeypatch):
    fill(cache, "a")
    monkeypatch.setattr(module, "file_hash", lambda path: pytest.fail("it was read"))
    assert cache.find("codes", "a")


def test_a_cache_that_was_copied_is_read_once(cache, tmp_path, monkeypatch):
    fill(cache, "a")
    moved = Cache(shutil.copytree(cache.folder, tmp_path / "moved"))
    assert moved.find("codes", "a")
    monkeypatch.setattr(module, "file_hash", lambda path: pytest.fail("it was read"))
    assert moved.find("codes", "a")


def test_a_cache_in_use_keeps_its_entries_of_today(cache):
    for key in "ab":
        fill(cache, key, size=100)
    fill(cache, "c", size=100, age=2 * 24 * 3600)
    other = Cache(cache.folder)
    assert other.find("codes", "a")  # and keeps it in use
    cache.prune(limit=1)
    assert entries(cache) == {"codes-a", "codes-b"}
    del other
    cache.prune(limit=1)
    assert entries(cache) == {"codes-a"}


def test_a_killed_maker_leaves_nothing_beyond_the_next_start(cache):
    code = (
        "import sys; from pathlib import Path; from slmkit.system.cache import Cache\n"
        "with Cache(Path(sys.argv[1])).making('codes', 'a') as making:\n"
        "    print(flush=True); sys.stdin.read()"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", code, str(cache.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    with maker:
        assert maker.stdout
        maker.stdout.read(1)
        fill(cache, "b")
        assert len(list(cache.folder.glob(".making-*"))) == 1  # it is at work
        maker.kill()
        maker.wait()
        fill(cache, "c")
    assert entries(cache) == {"codes-b", "codes-c"}


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    assert cache.find("codes", "a") is None
    with pytest.raises(SlmkitError, match="cannot write to the cache") as caught:
        fill(cache, "a")
    assert "--no-cache" in caught.value.hint


def test_a_cache_whose_files_cannot_be_changed_is_read(cache, tmp_path):
    fill(cache, "a")
    for path in (*cache.folder.rglob("*"), cache.folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "place").mkdir()
    assert Cache(cache.folder).copy("codes", "a", tmp_path / "place")
    (tmp_path / "place" / "file").write_bytes(b"mine now")  # it has no modes of the cache
    for path in (cache.folder, *cache.folder.rglob("*")):
        path.chmod(0o755)
