"""The cache on the command line: what it holds, and what stays."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from slmkit.cli.main import main
from slmkit.system.cache import Cache


@pytest.fixture
def cache(tmp_path):
    made = Cache(tmp_path)
    for age, (kind, key) in enumerate([("codes", "a"), ("artifact", "b"), ("codes", "c")]):
        with made.making(kind, key) as folder:
            (folder / "file").write_bytes(bytes(1000))
        os.utime(tmp_path / f"{kind}-{key}", (10**9 + age, 10**9 + age))
    return tmp_path


def slmkit(*words, expect=0):
    result = CliRunner().invoke(main, ["cache", *map(str, words)])
    assert result.exit_code == expect, result.output + result.stderr
    return result


def test_kinds_are_counted(cache):
    found = json.loads(slmkit("ls", "--cache", cache, "--json").stdout)
    assert [(row["kind"], row["entries"]) for row in found["kinds"]] == [
        ("artifact", 1),
        ("codes", 2),
    ]
    assert found["bytes"] == sum(row["bytes"] for row in found["kinds"]) >= 3000
    assert "codes" in slmkit("ls", "--cache", cache).stdout


def test_what_was_used_last_stays(cache):
    each = json.loads(slmkit("ls", "--cache", cache, "--json").stdout)["bytes"] // 3
    found = json.loads(slmkit("prune", "--cache", cache, "--limit", 2.5e-6, "--json").stdout)
    assert found["freed"] >= 1000 and each < 1250
    assert {path.name for path in Cache(cache).entries()} == {"artifact-b", "codes-c"}
    assert "freed" in slmkit("prune", "--cache", cache).stdout


def test_an_empty_cache_is_said(tmp_path):
    assert slmkit("ls", "--cache", tmp_path / "none").stdout.endswith(": 0.0 kB\n")


@pytest.mark.parametrize("limit", ["-1", "nan", "inf"])
def test_a_limit_that_says_nothing_is_refused(tmp_path, limit):
    slmkit("prune", "--cache", tmp_path, "--limit", limit, expect=2)
