"""Generate training sentences and the held-out file; the same seed gives the same bytes.

python data.py --held-out FILE --calibration FILE
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

from grammar import Example, normalized, sample

SEED = 20260401
HELD_OUT_SEED = SEED + 1
CALIBRATION = 160  # training sentences of the calibration file
HELD_OUT = {"combination": 600, "phrasing": 200}  # sentences of each kind


def training(seed: int = SEED) -> Iterator[Example]:
    """An endless stream of training examples: none is reserved for the held-out file."""
    random = Random(seed)  # noqa: S311 - sentences, not secrets
    while True:
        example = sample(random)
        if example.kind == "seen":
            yield example


def held_out() -> list[Example]:
    """The held-out examples: distinct sentences that ``training`` cannot generate."""
    random = Random(HELD_OUT_SEED)  # noqa: S311 - sentences, not secrets
    remaining, examples, sentences = dict(HELD_OUT), [], set()
    while any(remaining.values()):
        example = sample(random)
        sentence = normalized(example.prompt)
        if remaining.get(example.kind, 0) and sentence not in sentences:
            remaining[example.kind] -= 1
            sentences.add(sentence)
            examples.append(example)
    return examples


def write_held_out(path: Path) -> None:
    """Write the held-out file: a JSON object per line, with prompt, answer and kind."""
    lines = [
        json.dumps({"prompt": each.prompt, "answer": each.answer, "kind": each.kind})
        for each in held_out()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_calibration(path: Path) -> None:
    """Write the calibration file: a conversation per line, from training examples."""
    lines = [
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": each.prompt},
                    {"role": "assistant", "content": each.answer},
                ]
            }
        )
        for each in islice(training(), CALIBRATION)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--calibration", type=Path)
    options = parser.parse_args()
    if options.held_out:
        write_held_out(options.held_out)
    if options.calibration:
        write_calibration(options.calibration)
