"""Compare build and speed of the ort artifact with onnxruntime-genai's model builder.

python tests/benchmarks/against_genai_builder.py CHECKPOINT FOLDER [--recipe int4] [--threads 2]

Needs the extras test and crosscheck (the builder wants torch, transformers) and onnx-ir.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
from process_cost import measure

PROMPT, DECODE, ROUNDS = 32, 128, 5


def decode_speed(folder: Path) -> tuple[float, float]:
    """Prefill and decode speed of an artifact in onnxruntime-genai, in tokens per second."""
    model = genai.Model(str(folder))
    parameters = genai.GeneratorParams(model)
    length = PROMPT + DECODE
    parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = genai.Generator(model, parameters)
    begun = time.monotonic()
    generator.append_tokens(np.arange(10, 10 + PROMPT, dtype=np.int32))
    generator.generate_next_token()
    prefill, begun, count = time.monotonic() - begun, time.monotonic(), 0
    while not generator.is_done():
        generator.generate_next_token()
        count += 1
    return PROMPT / prefill, count / (time.monotonic() - begun)


def size(folder: Path) -> float:
    """MB of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*")) / 1e6


def main() -> None:
    """Build with both, then run the artifacts in turns; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="int4")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    theirs, out = options.folder / "builder", options.folder / "slmkit"
    shutil.rmtree(options.folder, ignore_errors=True)
    ours_build = measure(
        [
            sys.executable,
            "-m",
            "slmkit",
            "build",
            "--target",
            "android",
            "--no-cache",
            "--model",
            str(options.checkpoint),
            "--recipe",
            options.recipe,
            "--out",
            str(out),
        ],
    )
    theirs_build = measure(
        [
            sys.executable,
            "-m",
            "onnxruntime_genai.models.builder",
            "-i",
            str(options.checkpoint),
            "-o",
            str(theirs),
            "-p",
            "int4",
            "-e",
            "cpu",
            "-c",
            str(options.folder / "cache"),
        ],
        stdout=subprocess.DEVNULL,
    )
    ours = next(out.glob("*/ort"))
    speeds: dict[str, list[tuple[float, float]]] = {"slmkit": [], "builder": []}
    for _ in range(ROUNDS):
        for name, folder in (("slmkit", ours), ("builder", theirs)):
            _set_threads(folder, options.threads)
            speeds[name].append(decode_speed(folder))
    report = {
        "slmkit": {**ours_build, "mb": size(ours)},
        "builder": {**theirs_build, "mb": size(theirs)},
    }
    for name, runs in speeds.items():
        prefill, decode = (statistics.median(column) for column in zip(*runs, strict=True))
        report[name] |= {"prefill_tokens_per_s": prefill, "decode_tokens_per_s": decode}
    print(json.dumps(report, indent=1))  # noqa: T201


def _set_threads(folder: Path, threads: int) -> None:
    path = folder / "genai_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    path.write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":
    main()
