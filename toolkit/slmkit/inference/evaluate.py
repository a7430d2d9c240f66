"""Evaluate a model by exact match on a file of prompts and answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from slmkit.backend.interface import Runner
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import SlmkitError
from slmkit.inference.generate import answer
from slmkit.system.progress import Progress

HELD_OUT = SAMPLE_MODEL / "heldout.jsonl"
LIMIT = 96  # most tokens of an answer


@dataclass(frozen=True)
class Example:
    """One line of the file; scores are grouped by ``kind``."""

    prompt: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Score:
    """Exact matches, in all and by kind, and every wrong answer."""

    right: int
    total: int
    kinds: dict[str, tuple[int, int]]  # right and total by kind
    wrong: list[tuple[str, str, str]]  # prompt, expected, got
    items: list[bool]  # whether each example is right, in the order of the file


def read_examples(path: Path) -> list[Example]:
    """Read a JSONL file of objects with "prompt", "answer" and optionally "kind".

    Raises SlmkitError, with the line's number, for anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SlmkitError(f"cannot read {path}: {error}", "give a JSONL file with --data") from None
    examples = [_example(line, number, path) for number, line in enumerate(lines, 1) if line]
    if not examples:
        raise SlmkitError(f"{path} holds no line", 'a line is {"prompt": "...", "answer": "..."}')
    return examples


def sample_vocabulary() -> dict[str, int]:
    """The tokens of the sample model, by which a model is known to be of its kind."""
    return Tokenizer(SAMPLE_MODEL).library.get_vocab()


def evaluate(
    runner: Runner, tokenizer: Tokenizer, examples: list[Example], chunk: int, progress: Progress
) -> Score:
    """Answer every prompt greedily and compare with the expected text.

    ``chunk``: most prompt tokens of one call of ``runner.feed``.
    """
    progress.stage("answer", len(examples))
    kinds: dict[str, tuple[int, int]] = {}
    wrong, items = [], []
    for example in examples:
        got = answer(runner, tokenizer, example.prompt, LIMIT, chunk)
        right, total = kinds.get(example.kind, (0, 0))
        items.append(got == example.answer)
        kinds[example.kind] = (right + items[-1], total + 1)
        if not items[-1]:
            wrong.append((example.prompt, example.answer, got))
        progress.advance(1)
    return Score(sum(items), len(items), kinds, wrong, items)


def _example(line: str, number: int, path: Path) -> Example:
    try:
        values = json.loads(line)
        fields = (values["prompt"], values["answer"], values.get("kind", "all"))
        if not all(isinstance(field, str) for field in fields):
            raise TypeError
        "".join(fields).encode()  # raises for half of a surrogate pair, which is no text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SlmkitError(
            f"{path}, line {number}, is not an example",
            'a line is {"prompt": "...", "answer": "..."}',
        ) from None
    return Example(*fields)
