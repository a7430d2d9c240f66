"""Measure a build of the hexagon artifact, and context binaries with and without shared weights.

python tests/benchmarks/hexagon_build.py CHECKPOINT FOLDER [--soc sm8650] [--context 512]

Limit: 8 GB of memory; public figures for exports of 1B models are 50 to 100 GB.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from process_cost import build_command, build_parser, measure

from slmkit.backend.artifact import PROOF
from slmkit.backend.interface import Artifact, Runner
from slmkit.bundle.manifest import read_manifest
from slmkit_onnx.hexagon.modes import open_runner
from slmkit_onnx.hexagon.qnn.compile import compile_part
from slmkit_onnx.hexagon.qnn.socs import SOCS

LIMIT_GB = 8
TIMEOUT = 3600
STEPS = 20


def binaries(folder: Path, names: list[str], soc: str, shared: bool, out: Path) -> dict[str, Any]:
    """Compile all parts for one chip and remove them: seconds and megabytes."""
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    for part in names:
        compile_part(folder, out, part, SOCS[soc], shared, TIMEOUT)
    seconds = time.monotonic() - begun
    size = sum(path.stat().st_size for path in out.glob("*.bin")) / 1e6
    shutil.rmtree(out)
    return {"seconds": round(seconds, 1), "mb": round(size, 2)}


def decode_ms(folder: Path, artifact: Artifact, mode: str) -> dict[str, float]:
    """Milliseconds of a whole prefill chunk, and of a decode step (median of 20)."""
    runner = open_runner(folder, artifact, mode)
    chunk = np.arange(artifact.facts["graphs"]["prefill"]["tokens"])
    prefill = _timed(runner, chunk)
    steps = [_timed(runner, chunk[:1]) for _ in range(STEPS)]
    return {"prefill_ms": round(prefill, 1), "decode_ms": round(statistics.median(steps), 1)}


def _timed(runner: Runner, ids: Any) -> float:
    begun = time.monotonic()
    runner.feed(ids)
    return 1000 * (time.monotonic() - begun)


def size_mb(folder: Path) -> float:
    """Megabytes of all files in a folder and its subfolders."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    """Build without a cache, then compile both ways; print JSON."""
    parser = build_parser(__doc__)
    parser.add_argument("--soc", default="sm8650")
    options = parser.parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    cost = measure(
        build_command(options, "android", "hexagon", options.folder, "--soc", options.soc)
    )
    bundle = next(options.folder.iterdir())
    artifact = read_manifest(bundle).artifact("hexagon")
    graphs = bundle / PROOF / "hexagon"
    names = [part["name"] for part in artifact.facts["parts"]]
    report: dict[str, Any] = {"build": cost, "limit_gb": LIMIT_GB, "bundle_mb": size_mb(bundle)}
    for soc in options.soc.split(","):
        report[soc] = {
            kind: binaries(graphs, names, soc, kind == "shared", options.folder / "out")
            for kind in ("separate", "shared")
        }
        if soc in {mode.name for mode in artifact.modes}:
            report[soc] |= decode_ms(bundle / "hexagon", artifact, soc)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
