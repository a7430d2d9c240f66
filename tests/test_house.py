"""Rules of the house that a reader relies on: imports go one way, rooms stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLKIT = sorted((ROOT / "toolkit").rglob("*.py"))
TARGETS = sorted((ROOT / "targets").rglob("*.py"))
LAYERS = [  # a module may import from its own line and from those below it
    {"__main__"},
    {"cli"},
    {"listing"},
    {"options", "show", "show_forecast", "console"},
    {"wording"},
    {"recheck", "trace", "evaluate", "inspection", "doctor", "forecast"},
    {"build", "load"},
    {"plan"},
    {"emit", "proof", "parity_run", "calibration"},
    {"job"},
    {"parity", "bundle", "memory", "generate", "golden"},
    {"backends"},
    {"target", "cache", "manifest", "worker"},
    {"quant", "checkpoint"},
    {"reference", "record", "host", "parts"},
    {"models"},
    {"ops", "recipe", "errors", "progress", "platforms"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FOR_BACKENDS = {
    "slmkit.ops", "slmkit.backend.interface", "slmkit.quant.codes", "slmkit.errors", "slmkit.backend.static_runner",
    "slmkit.system.subprocess_worker", "slmkit.backend.partition", "slmkit.backend.job", "slmkit.system.cache",
}  # fmt: skip


def imports(path: Path, everywhere: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "slmkit":
            found |= {f"slmkit.{name.name}" for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", TOOLKIT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_of_the_toolkit_go_one_way(path):
    here = path.relative_to(ROOT / "toolkit" / "slmkit").parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module in imports(path):
        if module.startswith("slmkit.") and room(module) in LEVEL and room(module) != here:
            assert LEVEL[room(module)] >= LEVEL[here], module
        assert not module.startswith("slmkit_"), module


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_backends_import_only_what_is_theirs(path):
    own = path.relative_to(ROOT / "targets").parts[0]
    for module in imports(path):
        if module == "slmkit" or module.startswith(("slmkit.", "slmkit_")):
            assert module in FOR_BACKENDS or module.split(".")[0] == own, module


@pytest.mark.parametrize("path", [*TOOLKIT, *TARGETS], ids=lambda path: path.name)
def test_files_and_functions_stay_small_and_say_what_they_are_for(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 300
    assert ast.get_docstring(tree)
    assert path.name not in {"utils.py", "helpers.py", "common.py", "base.py", "misc.py"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            assert node.end_lineno - node.lineno <= 60, node.name
