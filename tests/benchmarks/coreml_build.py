"""What a coreml artifact costs: quantizing, emitting, proving; memory, and the package's size.

python tests/benchmarks/coreml_build.py CHECKPOINT FOLDER [--recipe int4] [--context 512]

The limits beside it: 60 seconds and 3 GB for the shape of Qwen2.5-0.5B. A torch trace with
coremltools 9 was measured on this kind of machine at 96 seconds and 7.94 GB, for one fixed graph
without a cache and without a proof.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

from watching import watched

from slmkit.manifest import read_manifest

LIMIT_SECONDS, LIMIT_GB = 60, 3
PEER = {"seconds": 96, "largest_process_gb": 7.94, "proof": "none"}


def timed_stages(reading: int, found: list[tuple[str, float]]) -> None:
    """Note when each stage of a build begins, by its line on stderr."""
    with os.fdopen(reading) as lines:
        for line in lines:
            found.append((line.strip().removeprefix("slmkit: "), time.monotonic()))


def main() -> None:
    """Build without a cache; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="int4")
    parser.add_argument("--context", default="512")
    asked = parser.parse_args()
    shutil.rmtree(asked.folder, ignore_errors=True)
    reading, writing = os.pipe()
    stages: list[tuple[str, float]] = []
    thread = threading.Thread(target=timed_stages, args=(reading, stages))
    thread.start()
    cost = watched(
        [sys.executable, "-m", "slmkit", "build", "--target", "ios", "--no-cache",
         "--model", str(asked.checkpoint), "--recipe", asked.recipe, "--artifacts", "coreml",
         "--context", asked.context, "--out", str(asked.folder)],
        stdout=subprocess.DEVNULL, stderr=writing,
    )  # fmt: skip
    os.close(writing)
    thread.join()
    stages.append(("end", time.monotonic()))
    (bundle,) = asked.folder.iterdir()
    seconds = {name: round(end - begin, 1) for (name, begin), (_, end) in pairwise(stages)}
    facts = read_manifest(bundle).artifact("coreml").facts
    made = seconds["quantize"] + seconds["emit coreml"]
    result = {
        "recipe": asked.recipe, "quantize and emit seconds": round(made, 1),
        "limit seconds": LIMIT_SECONDS, "limit gb": LIMIT_GB,
        "with the whole proof": {key: round(value, 2) for key, value in cost.items()},
        "stages": seconds,
        "weight.bin mb": [round(each["weights"] / 1e6, 1) for each in facts["packages"]],
        "predicted to stay": {
            name: each["predicted"] for name, each in facts["residency"].items()
        },
        "torch trace + coremltools, as measured before": PEER,
    }  # fmt: skip
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
