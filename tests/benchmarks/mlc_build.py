"""Measure a build of the mlc artifact, its speed on LLVM beside ort, its kernels' memory traffic.

python tests/benchmarks/mlc_build.py CHECKPOINT FOLDER [--recipe int4] [--context 512]
    [--only build|speed|traffic]

A token must read every weight once, so the traffic per token is at least the bytes of the weights
(1.0); the aim is 1.15.
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
from litert_build import ORT, measure_build
from litert_build import speed as ort_speed
from process_cost import build_command, build_parser, measure_stages

LIMIT, AIM = 1.0, 1.15
PROMPT, DECODE = 32, 16  # tokens
TARGETS = {"android": "adreno", "ios": "apple"}
LLVM = """
import json, sys, time, numpy as np
from pathlib import Path
from slmkit_mlc.lowering.definition import read_definition
from slmkit_mlc.verify.machine import Machine, build_for_cpu
folder, prompt, decode = Path(sys.argv[1]), *map(int, sys.argv[2:])
definition = read_definition(folder)
executable, _ = build_for_cpu(definition, "float32", ("prefill", "decode"))
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


def measure_target(options: Namespace, target: str) -> dict[str, Any]:
    """Build for one target: seconds by stage, memory, sizes."""
    folder = options.folder / f"mlc-{target}"
    shutil.rmtree(folder, ignore_errors=True)
    cost, seconds = measure_stages(build_command(options, target, "mlc", folder))
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


def compile_seconds(bundle: Path, gpu: str) -> dict[str, float]:
    """Seconds of one library's compilation in this process, without Python's imports."""
    from slmkit_mlc.compiler.compile import build, gpu_module
    from slmkit_mlc.compiler.pipeline import gpu_schedules
    from slmkit_mlc.gpus import known_gpus
    from slmkit_mlc.lowering.definition import read_definition

    definition, row = read_definition(bundle), known_gpus()[gpu]
    begun = time.monotonic()
    module = gpu_module(definition, row)
    written = time.monotonic()
    build(module, row.code_target, gpu_schedules(row), definition, {})
    return {
        "write the program s": round(written - begun, 1),
        "compile s": round(time.monotonic() - written, 1),
    }


def traffic(bundle: Path, gpu: str) -> dict[str, Any]:
    """Memory traffic of a decode step.

    Bytes of the buffers that its kernels read and write, relative to the weights' bytes; and the
    loads of each byte of a weight in the scheduled kernels, counted in their loops.
    """
    import tvm
    from traffic import loads_of

    from slmkit_mlc.gpus import known_gpus
    from slmkit_mlc.lowering.definition import read_definition
    from slmkit_mlc.verify.cpu_build import CpuBuild
    from slmkit_mlc.verify.host_code import compile_host_code
    from slmkit_mlc.verify.machine import Machine

    definition = read_definition(bundle)
    loaded: dict[str, float] = {}
    code = compile_host_code(
        definition,
        known_gpus()[gpu],
        observe_scheduled=lambda mod: loaded.update(loads_of(mod)),
    )
    build = CpuBuild(definition, code, None)
    machine = Machine(build.module, definition, bundle / "params")
    machine.call("prefill", np.arange(8))
    calls: list[tuple[str, int]] = []  # kernel, bytes of its buffers

    def record(_: Any, name: str, before: bool, __: Any, *arguments: Any) -> None:
        tensors = [each for each in arguments if isinstance(each, tvm.runtime.Tensor)]
        if before and not name.startswith("vm."):
            calls.append((name, sum(each.numpy().nbytes for each in tensors)))

    machine.vm.set_instrument(record)
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
    total = sum(size for name, size in calls if "take" not in name)
    return {
        "limit": LIMIT,
        "aim": AIM,
        "launches": len(calls),
        "bytes moved per token / weights": round(total / (weights - unread), 4),
        "loads of a weight's byte": {k: v for k, v in loaded.items() if k in dict(calls)},
    }


def main() -> None:
    """Build for both targets, run beside ort, count traffic; print JSON."""
    parser = build_parser(__doc__)
    parser.add_argument("--only", choices=("build", "speed", "traffic"))
    options = parser.parse_args()
    result: dict[str, Any] = {}
    if options.only in (None, "build"):
        for target, gpu in TARGETS.items():
            result[target] = measure_target(options, target)
            result[target]["alone"] = compile_seconds(Path(result[target]["bundle"]), gpu)
    (bundle,) = (options.folder / "mlc-android").iterdir()
    if options.only in (None, "speed"):
        command = [sys.executable, "-c", LLVM, str(bundle / "mlc"), str(PROMPT), str(DECODE)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result["mlc on LLVM"] = json.loads(done.stdout.splitlines()[-1])
        ort = Path(measure_build(options, "ort").pop("bundle"))
        result["ort, 2 threads"] = ort_speed(ORT, ort, 2)
    if options.only in (None, "traffic"):
        result["traffic"] = {"adreno": traffic(bundle / "mlc", "adreno")}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
