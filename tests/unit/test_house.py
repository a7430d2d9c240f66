"""Rules of the house that a reader relies on: imports go one way, rooms stay small."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLKIT = sorted((ROOT / "toolkit").rglob("*.py"))
TARGETS = sorted((ROOT / "targets").rglob("*.py"))
LADDER = [  # a room may import from its own step and from those below it
    {"__main__"},
    {"cli"},
    {"api"},
    {"workflows", "serving"},
    {"inference", "harness", "app", "devices"},
    {"bundle"},
    {"planning", "parity", "evaluation"},
    {"backend"},
    {"activations"},
    {"quant", "checkpoint"},
    {"interpreters", "recipe"},
    {"models"},
    {"ops", "system", "errors", "snr"},
]
STEP = {name: step for step, names in enumerate(LADDER) for name in names}
FOR_BACKENDS = {  # beside all of slmkit.backend
    "slmkit.ops",
    "slmkit.errors",
    "slmkit.quant.codes",
    "slmkit.recipe.scheme",
    "slmkit.snr",
    "slmkit.system.scratch",
    "slmkit.system.subprocess_worker",
    "slmkit.system.cache",
    "slmkit.system.source",
}
WIDEST = 15  # Python files in a folder; models/ has one for each family


def imports(path: Path, everywhere: bool = True) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            modules = {name for name in inner if is_module(name)}
            found |= modules or {node.module}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def is_module(name: str) -> bool:
    tops = (ROOT / "toolkit", ROOT / "targets")
    paths = [top.joinpath(*name.split(".")) for top in tops]
    return any(path.is_dir() or path.with_suffix(".py").is_file() for path in paths)


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", TOOLKIT, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_of_the_toolkit_go_one_way(path):
    here = path.relative_to(ROOT / "toolkit" / "slmkit").parts[0].removesuffix(".py")
    if here == "__init__":
        return
    for module in imports(path):
        if module.startswith("slmkit.") and room(module) in STEP and room(module) != here:
            assert STEP[room(module)] >= STEP[here], module
        assert not module.startswith("slmkit_"), module


@pytest.mark.parametrize("path", TARGETS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_backends_import_only_what_is_theirs(path):
    own = path.relative_to(ROOT / "targets").parts[0]
    for module in imports(path):
        if module == "slmkit" or module.startswith(("slmkit.", "slmkit_")):
            shared = module in FOR_BACKENDS or module.startswith("slmkit.backend.")
            assert shared or module.split(".")[0] == own, module


def test_a_folder_has_few_files():
    folders = Counter(path.parent for path in (*TOOLKIT, *TARGETS) if path.name != "__init__.py")
    wide = {folder.name: count for folder, count in folders.items() if count > WIDEST}
    assert set(wide) <= {"models"}


@pytest.mark.parametrize("path", [*TOOLKIT, *TARGETS], ids=lambda path: path.name)
def test_files_and_functions_stay_small_and_say_what_they_are_for(path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert text.count("\n") <= 300
    assert ast.get_docstring(tree)
    assert path.name not in {"utils.py", "helpers.py", "common.py", "base.py", "misc.py"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            assert not (ast.get_docstring(node) or "").startswith("What "), "say the thing itself"
        if isinstance(node, ast.FunctionDef) and node.end_lineno:
            assert node.end_lineno - node.lineno <= 60, node.name
