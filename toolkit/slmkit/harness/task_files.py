"""Task files of lm-evaluation-harness: which there are, and whether they bring Python code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from slmkit.errors import SlmkitError, UsageError

CODE = "!function"  # the tag by which a task file names a Python function
INCLUDE = "include"


@dataclass(frozen=True)
class Code:
    """A Python function that a task file asks the harness to import."""

    file: Path
    name: str


def check_tasks(folder: Path, allow_code: bool) -> None:
    """Raise UsageError if ``folder`` has no task file, or one that brings code which is not
    allowed: a file of it, or one that it includes."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", "--tasks-folder holds YAML files of tasks")
    files = sorted(folder.rglob("*.yaml"))
    if not files:
        raise UsageError(
            f"{folder} has no YAML file", "a task is a file NAME.yaml of lm-evaluation-harness"
        )
    found = None if allow_code else next(code_of(files), None)
    if found is not None:
        raise UsageError(
            f"{found.file} would run Python code: {CODE} {found.name}",
            "read that code first; --allow-task-code runs it",
        )


def code_of(files: list[Path]) -> Iterator[Code]:
    """Every function that some task files name, and the files that they include."""
    queue, seen = [path.resolve() for path in files], set[Path]()
    while queue:
        path = queue.pop(0)
        if path in seen:
            continue
        seen.add(path)
        for node in _nodes(path):
            if node.tag == CODE:
                yield Code(path, str(node.value))
            if isinstance(node, yaml.MappingNode):
                queue += [(path.parent / name).resolve() for name in _included(node)]


def _nodes(path: Path) -> Iterator[yaml.Node]:
    """All nodes of a YAML file, which is parsed and not constructed."""
    try:
        with path.open("rb") as file:
            roots = list(yaml.compose_all(file, yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise SlmkitError(f"{path} is no YAML file: {first}", "correct it, or remove it") from None
    queue: list[yaml.Node] = [root for root in roots if root is not None]
    met: set[int] = set()  # nodes may be repeated by anchors
    while queue:
        node = queue.pop()
        if id(node) in met:
            continue
        met.add(id(node))
        yield node
        if isinstance(node, yaml.SequenceNode):
            queue += node.value
        elif isinstance(node, yaml.MappingNode):
            queue += [each for pair in node.value for each in pair]


def _included(node: yaml.MappingNode) -> list[str]:
    """File names of a mapping's key ``include``: one or a list."""
    names = []
    for key, value in node.value:
        if key.value == INCLUDE:
            inner = value.value if isinstance(value, yaml.SequenceNode) else [value]
            names += [str(each.value) for each in inner]
    return names
