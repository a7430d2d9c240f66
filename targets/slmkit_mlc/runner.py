"""Runner of the artifact: its program on the CPU, or its kernels on OpenCL or a Metal GPU."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.artifact import file_of
from slmkit.backend.build_cache import build_cache
from slmkit.backend.interface import Artifact
from slmkit.backend.static_runner import check_context
from slmkit.ops import Floats
from slmkit_mlc.gpus import Gpu, known_gpus
from slmkit_mlc.libraries import find_check
from slmkit_mlc.lowering.definition import FILE, Definition, read_definition
from slmkit_mlc.verify.machine import Machine, build_for_cpu

if TYPE_CHECKING:
    from slmkit_mlc.verify.host_code import HostCode


class MlcRunner:
    """Runs chunks by ``batch_verify``, which returns all logits, and single tokens by ``decode``.

    Modes: ``float32`` and ``float16`` run the program on this CPU; ``apple-metal`` on this Mac's
    GPU; the name of an OpenCL GPU runs the library's kernels on a CPU's OpenCL runtime, and
    ``apple-schedule`` the kernels of the Metal library's schedules.
    """

    def __init__(self, folder: Path, artifact: Artifact, mode: str) -> None:
        self.definition = definition = read_definition(file_of(folder, FILE).parent)
        params = folder / artifact.facts["params"]
        tvm = f"TVM {version('apache-tvm')}"
        self.tap_names: list[str] = []
        if mode in ("float32", "float16"):
            executable, self.tap_names = build_for_cpu(definition, mode)
            self.machine = Machine(executable, definition, params)
            self.runtime = f"{tvm}, LLVM, {mode}"
        elif mode.endswith("-metal"):
            from slmkit_mlc.verify.metal import metal_machine

            self.machine = metal_machine(definition, known_gpus()["apple"], params)
            self.runtime = f"{tvm}, Metal"
        else:
            from slmkit_mlc.verify.cpu_build import CpuBuild

            gpu = known_gpus()[mode.removesuffix("-schedule")]
            library = file_of(folder, artifact.facts["libraries"][gpu.name]["file"])
            code = _host_code(definition, gpu, file_of(folder, FILE).parent, library)
            build = CpuBuild(definition, code, library if gpu.is_opencl else None)
            self.machine = Machine(build.module, definition, params)
            self.runtime = f"{tvm}, kernels of {mode} on {build.device.name}"
        self.context_length = definition.limits.context
        self._taps: dict[str, list[Floats]] = {}
        self.length = 0

    @property
    def taps(self) -> Mapping[str, Floats]:
        """Marked intermediates of the last feed; empty unless built for debugging."""
        return {name: np.concatenate(parts) for name, parts in self._taps.items()}

    def reset(self) -> None:
        """Forget the sequence."""
        self.machine.reset()
        self.length = 0

    def feed(self, ids: NDArray[np.int64]) -> Floats:
        """Append tokens to the sequence; their logits, (T, V)."""
        check_context(self.length + len(ids), self.context_length)
        self.length += len(ids)
        self._taps = {name: [] for name in self.tap_names}
        chunk = self.definition.limits.prefill
        return np.concatenate(
            [self._step(ids[start : start + chunk]) for start in range(0, len(ids), chunk)]
        )

    def _step(self, ids: NDArray[np.int64]) -> Floats:
        """Logits of one chunk, (T, V)."""
        name = "decode" if len(ids) == 1 else "batch_verify"
        logits, *taps = self.machine.call(name, ids)
        for name, value in zip(self.tap_names, taps, strict=True):
            self._taps[name].append(value.reshape(len(ids), -1).astype(np.float32))
        rows: Floats = logits[0]
        return rows


def _host_code(definition: Definition, gpu: Gpu, program: Path, library: Path) -> HostCode:
    """The code of a library's kernels for this machine, which its build has executed, or anew."""
    from slmkit_mlc.verify.host_code import compile_host_code, load_host_code

    cache = build_cache()
    known = find_check(cache, gpu, program, library) if cache else None
    return load_host_code(known) if known else compile_host_code(definition, gpu)
