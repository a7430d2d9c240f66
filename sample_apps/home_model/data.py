"""Training sentences without end, and the held-out file; the same seed gives the same bytes.

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
CALIBRATION = 160  # training sentences that builds calibrate with
HELD_OUT = {"combination": 600, "phrasing": 200}  # sentences of each kind


def training(seed: int = SEED) -> Iterator[Example]:
    """Examples whose combination of values and whose phrasing are both free to be seen."""
    random = Random(seed)  # noqa: S311 - sentences, not secrets
    while True:
        example = sample(random)
        if example.kind == "seen":
            yield example


def held_out() -> list[Example]:
    """Each sentence once; none of them can come out of ``training``."""
    random = Random(HELD_OUT_SEED)  # noqa: S311 - sentences, not secrets
    left, chosen, seen = dict(HELD_OUT), [], set()
    while any(left.values()):
        example = sample(random)
        key = normalized(example.prompt)
        if left.get(example.kind, 0) and key not in seen:
            left[example.kind] -= 1
            seen.add(key)
            chosen.append(example)
    return chosen


def write_held_out(path: Path) -> None:
    """One JSON object a line: prompt, answer, kind."""
    lines = [
        json.dumps({"prompt": each.prompt, "answer": each.answer, "kind": each.kind})
        for each in held_out()
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_calibration(path: Path) -> None:
    """Training sentences with their answers, one conversation a line."""
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
    asked = parser.parse_args()
    if asked.held_out:
        write_held_out(asked.held_out)
    if asked.calibration:
        write_calibration(asked.calibration)
