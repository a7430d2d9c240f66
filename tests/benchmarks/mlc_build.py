"""What an mlc artifact costs, how fast its program runs here beside ort, what its kernels move.

python tests/benchmarks/mlc_build.py CHECKPOINT FOLDER [--recipe int4] [--context 512]
    [--only build|speed|traffic]

The limit beside the traffic: a token must read every weight once, so bytes moved per token are at
least the weights' bytes (1.0); the aim is 1.15.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from litert_build import ORT, built
from litert_build import speed as ort_speed
from watching import build_command, parser, staged

LIMIT, AIM = 1.0, 1.15
PROMPT, DECODE = 32, 16  # tokens
TARGETS = {"android": "adreno", "ios": "apple"}
LLVM = """
import json, sys, time, numpy as np
from pathlib import Path
from slmkit_mlc.lowering.definition import read_definition
from slmkit_mlc.verify.machine import Machine, on_processor
folder, prompt, decode = Path(sys.argv[1]), *map(int, sys.argv[2:])
definition = read_definition(folder)
executable, _ = on_processor(definition, "float32", ("prefill", "decode"))
machine = Machine(executable, definition, folder / "params")
begun = time.monotonic()
machine.call("prefill", np.full(prompt, 7))
first = time.monotonic() - begun
begun = time.monotonic()
for _ in range(decode):
    machine.call("decode", np.array([7]))
print(json.dumps({
    "time to first token s": first, "prefill tokens per second": prompt / first,
    "decode tokens per second": decode / (time.monotonic() - begun),
}))
"""


def of_target(asked: Namespace, target: str) -> dict[str, Any]:
    """Build for one platform: seconds by stage, memory, sizes."""
    folder = asked.folder / f"mlc-{target}"
    shutil.rmtree(folder, ignore_errors=True)
    cost, seconds = staged(build_command(asked, target, "mlc", folder))
    (bundle,) = folder.iterdir()
    artifact = json.loads((bundle / "manifest.json").read_text())["artifacts"][0]
    libraries = artifact["facts"]["libraries"]
    shards = (bundle / "mlc" / "params").glob("params_shard_*.bin")
    return {
        "stages": seconds,
        "with the whole proof": cost,
        "parameters mb": round(sum(path.stat().st_size for path in shards) / 1e6, 1),
        "libraries": {
            name: {
                "mb": round((bundle / "mlc" / each["file"]).stat().st_size / 1e6, 2),
                "planned memory mb": {k: round(v / 1e6, 2) for k, v in each["memory"].items()},
                "kernels": each.get("kernels"),
            }
            for name, each in libraries.items()
        },
        "bundle": str(bundle / "mlc"),
    }


def compiled_alone(bundle: Path, gpu: str) -> dict[str, float]:
    """Seconds of one library's compilation, in this process, without Python's imports."""
    from slmkit_mlc.compiler.compile import build, gpu_module
    from slmkit_mlc.compiler.pipeline import for_gpu
    from slmkit_mlc.gpus import known_gpus
    from slmkit_mlc.lowering.definition import read_definition

    definition, row = read_definition(bundle), known_gpus()[gpu]
    begun = time.monotonic()
    module = gpu_module(definition, row)
    written = time.monotonic()
    build(module, row.code_target, for_gpu(row), definition, {})
    return {
        "write the program s": round(written - begun, 1),
        "compile s": round(time.monotonic() - written, 1),
    }


def traffic(bundle: Path, gpu: str) -> dict[str, Any]:
    """Bytes of the buffers that a decode step's kernels read and write, beside the weights'; and
    how often the scheduled kernels load a byte of a weight, counted in their loops."""
    import tvm
    from traffic import loads_of

    from slmkit_mlc.gpus import known_gpus
    from slmkit_mlc.lowering.definition import read_definition
    from slmkit_mlc.verify.cpu_build import Twin
    from slmkit_mlc.verify.machine import Machine

    definition = read_definition(bundle)
    loaded: dict[str, float] = {}
    twin = Twin(
        definition, known_gpus()[gpu], None, scheduled=lambda mod: loaded.update(loads_of(mod))
    )
    machine = Machine(twin.executable, definition, bundle / "params")
    machine.call("prefill", np.arange(8))
    moved: list[tuple[str, int]] = []

    def note(_: Any, name: str, before: bool, __: Any, *given: Any) -> None:
        tensors = [each for each in given if isinstance(each, tvm.runtime.Tensor)]
        if before and not name.startswith("vm."):
            moved.append((name, sum(each.numpy().nbytes for each in tensors)))

    machine.machine.set_instrument(note)
    machine.call("decode", np.array([3]))
    table = definition.table
    weights = sum(
        int(np.prod(param.shape)) * np.dtype(param.dtype).itemsize for param in table.params
    )
    unread = (
        0
        if table.embedding == table.head
        else sum(
            int(np.prod(param.shape)) * np.dtype(param.dtype).itemsize
            for param in table.matrices[table.embedding].params
        )
    )
    total = sum(size for name, size in moved if "take" not in name)
    return {
        "limit": LIMIT,
        "aim": AIM,
        "launches": len(moved),
        "bytes moved per token / weights": round(total / (weights - unread), 4),
        "loads of a weight's byte": {k: v for k, v in loaded.items() if k in dict(moved)},
    }


def main() -> None:
    """Build for both platforms, run the program beside ort, count; print JSON."""
    asking = parser(__doc__)
    asking.add_argument("--only", choices=("build", "speed", "traffic"))
    asked = asking.parse_args()
    result: dict[str, Any] = {}
    if asked.only in (None, "build"):
        for target, gpu in TARGETS.items():
            result[target] = of_target(asked, target)
            result[target]["alone"] = compiled_alone(Path(result[target]["bundle"]), gpu)
    (bundle,) = (asked.folder / "mlc-android").iterdir()
    if asked.only in (None, "speed"):
        words = [sys.executable, "-c", LLVM, str(bundle / "mlc"), str(PROMPT), str(DECODE)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        result["mlc on LLVM"] = json.loads(done.stdout.splitlines()[-1])
        ort = Path(built(asked, "ort").pop("bundle"))
        result["ort, 2 threads"] = ort_speed(ORT, ort, 2)
    if asked.only in (None, "traffic"):
        result["traffic"] = {"adreno": traffic(bundle / "mlc", "adreno")}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
