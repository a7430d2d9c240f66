"""The float model's answers on a text as a file, for the processes that run artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.interface import Runner
from slmkit.evaluation.divergence import Expected
from slmkit.evaluation.sources import Report, against_answers, runner_logits
from slmkit.evaluation.text import EvaluationText, Window
from slmkit.parity.metrics import to_json


def save_answers(expected: Expected, text: EvaluationText, path: Path) -> None:
    """Write answers and their text to an .npz file; ``load_answers`` is the inverse."""
    arrays: dict[str, Any] = {
        "ids": np.concatenate(text.sequences),
        "ends": np.cumsum([len(ids) for ids in text.sequences]),
        "first": np.asarray([window.first for window in text.windows]),
        "values": expected.values,
        "norm": expected.norm,
        "best": expected.best,
        "log_next": expected.log_next,
    }
    if expected.columns is not None:
        arrays["columns"] = expected.columns
    np.savez(path, **arrays)


def load_answers(path: Path) -> tuple[Expected, EvaluationText]:
    """Read a file that ``save_answers`` wrote."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    parts = np.split(arrays["ids"], arrays["ends"][:-1])
    windows = zip(parts, arrays["first"].tolist(), strict=True)
    text = EvaluationText(tuple(Window(ids, first) for ids, first in windows))
    answers = (arrays[name] for name in ("values", "norm", "best", "log_next"))
    return Expected(arrays.get("columns"), *answers), text


def measure_runner(runner: Runner, path: Path, chunk: int, report: Report) -> dict[str, Any]:
    """Divergence of an artifact from the answers in a file, as JSON values."""
    expected, text = load_answers(path)
    return to_json(
        against_answers(expected, runner_logits(runner, text.sequences, chunk, report), text)
    )


def read_through(runner: Runner, path: Path, chunk: int, report: Report) -> None:
    """Feed an artifact the text of a file as ``measure_runner`` does, without looking at logits."""
    _, text = load_answers(path)
    for _ in runner_logits(runner, text.sequences, chunk, report):
        pass
