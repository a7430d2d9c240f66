"""Compilation of a library by mlc_llm's own compiler, from the same converted weights.

Only if the user has installed mlc_llm: it is on no package index, and its versions follow TVM's
development. Parity then runs slmkit's program on the same parameters, not mlc_llm's library.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from slmkit.errors import BackendError
from slmkit_mlc.contract import prefix_of
from slmkit_mlc.gpus import Gpu

DEVICES = {"adreno": "android:adreno", "mali": "android", "apple": "iphone"}  # mlc_llm's names


def compile_with_mlc_llm(
    config: Path, gpu: Gpu, name: str, quantization: str, out: Path
) -> dict[str, Any]:
    """Run ``python -m mlc_llm compile``. Raises BackendError with the last line of its output."""
    command = [
        sys.executable,
        "-m",
        "mlc_llm",
        "compile",
        str(config),
        "--device",
        DEVICES[gpu.name],
        "--quantization",
        quantization,
        "--system-lib-prefix",
        prefix_of(name),
        "--output",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not out.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines()
        last_line = lines[-1] if lines else "it said nothing"
        raise BackendError(
            f"mlc_llm compile failed for {gpu.name} (exit code {done.returncode}): {last_line}",
            "leave compiler: mlc_llm out of the recipe to compile with slmkit's own",
        )
    return {"functions": {}, "memory": {}}
