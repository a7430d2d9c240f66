"""Whole commands on damaged input: an answer or one sentence, with no traceback, no hang above ten
seconds, and no gigabyte more than the same command takes on what is whole.

Damages are drawn by seed, so that a failure is repeated by its number.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmkit import api
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.inference.evaluate import HELD_OUT
from slmkit.recipe.recipe import SHIPPED
from tiny_models import tiny_config, write_checkpoint

SECONDS = 10  # beyond those that the command takes on whole input
GIGABYTE = 1e9  # likewise
CODES = {0, 1, 2, 3, 4}  # exit codes of commands that ended by themselves
STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0.5, 2**63, 10**400, float("nan"), float("inf")),
    *("", "\ud800", "../../etc/passwd", "x" * 100_000, "{% for i in range(10**9) %}a{% endfor %}"),
    *([], {}, [[]], [{}] * 10_000, {"a": {"a": {"a": {}}}}),
)
Run = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    said: str  # on stderr
    seconds: float
    peak: float  # bytes, of the largest of its processes


def run(*words: object, timeout: float = 120) -> Ended:
    """One command, in a process of its own."""
    path = os.pathsep.join(filter(None, sys.path))
    start = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "slmkit", *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": path},
        )
        ended = 0
        while not ended:
            if time.monotonic() - start > timeout:
                child.kill()
            time.sleep(0.02)
            ended, status, used = os.wait4(child.pid, os.WNOHANG)
        child.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    return Ended(child.returncode, said, time.monotonic() - start, used.ru_maxrss * 1024)


@dataclass(frozen=True)
class Case:
    """A command, the whole input that it reads, and the file of it that is damaged."""

    words: tuple[str, ...]  # {} is the input
    source: str  # "model", "bundle" or a file's name
    damaged: str = ""  # in a folder

    def command(self, path: Path) -> list[str]:
        """The command on the input at a path."""
        return [word.format(path) for word in self.words]


ASK = ("--prompt", "hi", "--max-tokens", "2")
CASES = [
    *(
        Case(("run", "{}", *ASK), "model", name)
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    ),
    *(Case(("inspect", "{}"), "model", name) for name in ("config.json", "model.safetensors")),
    *(
        Case((*words, "{}", *more), "bundle", name)
        for words, more in ((("verify",), ()), (("run",), ASK))
        for name in ("manifest.json", "ort/model.onnx", "tokenizer/tokenizer.json")
    ),
    Case(("parity", "{}"), "bundle", "manifest.json"),
    Case(("plan", "--target", "android", "--recipe", "{}"), "recipe.yaml"),
    Case(("eval", str(SAMPLE_MODEL), "--data", "{}", "--limit", "1"), "answers.jsonl"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undamaged model, bundle, recipe and task file."""
    folder = tmp_path_factory.mktemp("whole")
    model = write_checkpoint(folder / "model", tiny_config("llama"))
    built = api.build(model, target="android", artifacts=["ort"], out=folder / "dist", cache=False)
    built.path.rename(folder / "bundle")
    shutil.copyfile(SHIPPED / "int4.yaml", folder / "recipe.yaml")
    shutil.copyfile(HELD_OUT, folder / "answers.jsonl")
    return folder


@pytest.fixture(scope="module")
def undamaged(whole: Path) -> dict[Case, Ended]:
    """How each command ends on whole input, made as it is asked for."""
    return {}


def damage(path: Path, rng: np.random.Generator) -> str:
    """Damage a file; says how."""
    kind = str(rng.choice(["bytes", "cut", "again", "value"]))
    content = path.read_bytes()
    at = int(rng.integers(0, min(len(content), 4096)))
    if kind == "value" and path.suffix == ".json":
        values = json.loads(content)
        value = STRANGE[rng.integers(len(STRANGE))]
        place = replace_one(values, value, rng)
        path.write_text(json.dumps(values))
        return f"{place} is {str(value)[:40]!r}"
    noise = rng.bytes(int(rng.integers(1, 9)))
    changed = {
        "cut": content[:at],
        "again": content[:at] + content[at // 2 : at] * 50 + content[at:],
    }.get(kind, content[:at] + noise + content[at + len(noise) :])
    path.write_bytes(changed)
    return f"{kind} at {at}"


def replace_one(values: Any, value: Any, rng: np.random.Generator) -> str:
    """Put ``value`` at a place of nested JSON values, mostly near the top; says where."""
    place, name = values, ""
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[rng.integers(len(keys))]
        name += f"[{key!r}]"
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.4:
            place[key] = value
            return name
        place = inner


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.words[0]}-{case.source}-{case.damaged}"
)
def test_damaged_input_is_an_answer_or_one_sentence(whole, undamaged, tmp_path, case, seed):
    if case not in undamaged:
        undamaged[case] = run(*case.command(whole / case.source))
        assert undamaged[case].code == 0, undamaged[case].said
    known = undamaged[case]
    source = whole / case.source
    copy = tmp_path / case.source
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copyfile(source, copy)
    how = damage(copy / case.damaged if case.damaged else copy, np.random.default_rng(seed))
    found = run(*case.command(copy), timeout=known.seconds + SECONDS)
    assert found.code in CODES, f"{how}: {found}"
    assert "Traceback" not in found.said, how
    assert "report this" not in found.said, how
    assert not found.code or "Error: " in found.said, f"{how}: {found}"
    assert found.peak < known.peak + GIGABYTE, f"{how}: {found}"
