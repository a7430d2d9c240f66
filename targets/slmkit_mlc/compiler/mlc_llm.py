"""Let mlc_llm's own compiler make the library, of the same converted weights.

Only where the user has installed it: it is on no package index, and its versions follow TVM's
development. It writes what it writes: parity then runs our program on the same parameters.
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
    """Run ``python -m mlc_llm compile``. Raises BackendError with its last words."""
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
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise BackendError(
            f"mlc_llm compile failed for {gpu.name} (exit code {done.returncode}): {last[0]}",
            "leave compiler: mlc_llm out of the recipe to compile with slmkit's own",
        )
    return {"functions": {}, "memory": {}}
