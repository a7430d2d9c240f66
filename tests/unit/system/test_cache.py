"""The cache: entries appear whole, are found by content, and the oldest go first."""

from __future__ import annotations

import os

import pytest

from slmkit.system.cache import Cache, default_folder, folder_size, key_of


def fill(cache, key, size=10, age=0):
    with cache.making("codes", key) as making:
        (making / "file").write_bytes(bytes(size))
    path = cache.folder / f"codes-{key}"
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))


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
    assert list(cache.folder.iterdir()) == []


def test_of_two_makers_the_first_one_stays(cache):
    with cache.making("codes", "a") as first, cache.making("codes", "a") as second:
        (first / "file").write_bytes(b"1")
        (second / "file").write_bytes(b"2")
    assert (cache.find("codes", "a") / "file").read_bytes() == b"2"  # the inner one ended first
    assert len(list(cache.folder.iterdir())) == 1


def test_the_longest_unused_entries_go_first(cache):
    for age, key in enumerate("cba"):
        fill(cache, key, size=100, age=100 * age)
    cache.find("codes", "a")  # used just now
    cache.prune(limit=250)
    assert {path.name for path in cache.folder.iterdir()} == {"codes-a", "codes-c"}


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
    assert folder_size(tmp_path) == 0
