"""Libraries in the build cache: one depends on the program and its GPU, not on the weights.

So other codes of a recipe (another calibration text, weights that were trained on) bind their
parameters to the same library. Whether its kernels compute what their functions say, on the numbers
of the first of these models, is kept too, with the code that was executed: a proof runs it again.
"""

from __future__ import annotations

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Job
from slmkit.system.cache import Cache, file_hash, key_of
from slmkit.system.scratch import scratch
from slmkit.system.source import source_digest
from slmkit.system.subprocess_worker import call
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import FILE
from slmkit_mlc.shards import PARAMS

KIND, CHECK_KIND = "library", "library-check"
LIBRARY, FACTS = "library.tar", "facts.json"  # files of the entries in the cache
JOB = "slmkit_mlc.library_job:library_job"


def find_or_build(
    job: Job, gpu: Gpu, name: str, quantization: str, out: Path, check: bool
) -> dict[str, Any]:
    """Write the library ``name`` of the program in ``out``'s folder to ``out``.

    It is taken from the job's cache, or compiled by TVM in a worker process and added to it; so is
    the result of its ``check``. Returns ``functions`` with their signatures, their ``memory`` in
    bytes, and the result of the check as ``kernels``.
    """
    cache = Cache(job.cache) if job.cache is not None else None
    key = _key(gpu, name, quantization, out.parent)
    entry = cache.find(KIND, key) if cache else None
    if entry is not None:
        shutil.copyfile(entry / LIBRARY, out)
    known = find_check(cache, gpu, out.parent, out) if cache and entry and check else None
    with scratch() as place:
        wanted = {"name": name, "quantization": quantization, "out": str(out)}
        made = _run_job(
            gpu,
            out,
            wanted if entry is None else None,
            place if check and known is None else None,
        )
        if cache and "compiled" in made:
            with cache.making(KIND, key) as making:
                shutil.copyfile(out, making / LIBRARY)
                _write(making, made["compiled"])
        if cache and "checked" in made:
            with cache.making(CHECK_KIND, _check_key(gpu, out.parent, out)) as making:
                shutil.copytree(place, making, dirs_exist_ok=True)
                _write(making, made["checked"])
    compiled: dict[str, Any] = made["compiled"] if entry is None else _read(entry)
    if not check:
        return compiled
    return {**compiled, "kernels": made["checked"] if known is None else _read(known)}


def find_check(cache: Cache, gpu: Gpu, program: Path, library: Path) -> Path | None:
    """The cache's entry of a checked library, with the code that was executed on a processor like
    this one (``slmkit_mlc.verify.host_code``); None if there is none."""
    return cache.find(CHECK_KIND, _check_key(gpu, program, library))


def _check_key(gpu: Gpu, program: Path, library: Path) -> str:
    """Hash of everything that a check's result and its code for this processor depend on."""
    packages = {name: version(name) for name in ("intel-opencl-rt", "pyopencl")}
    facts = {**_about_code(gpu, program), **packages, "library": file_hash(library)}
    return key_of({**facts, "processor": _processor()})


def _run_job(
    gpu: Gpu, library: Path, compiling: dict[str, str] | None, checked: Path | None
) -> dict[str, Any]:
    """The worker's result; nothing if there is nothing to do. ``checked``: the folder for the
    code of a check, None for none."""
    if compiling is None and checked is None:
        return {}
    checking = {
        "library": str(library) if gpu.is_opencl else None,
        "params": str(library.parent / PARAMS),
        "out": str(checked),
    }
    payload = {
        "folder": str(library.parent),
        "gpu": gpu.as_json,
        "compile": compiling,
        "check": checking if checked else None,
    }
    about = f"compiles for {gpu.name}" if compiling else f"executes the kernels of {gpu.name}"
    found: dict[str, Any] = call(JOB, payload, lambda done, total: None, about)
    return found


def _write(entry: Path, facts: dict[str, Any]) -> None:
    (entry / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _read(entry: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((entry / FACTS).read_text(encoding="utf-8"))
    return facts


def _key(gpu: Gpu, name: str, quantization: str, folder: Path) -> str:
    """Hash of everything that the library's bytes depend on."""
    return key_of({**_about_code(gpu, folder), "name": name, "quantization": quantization})


def _about_code(gpu: Gpu, folder: Path) -> dict[str, Any]:
    """The program in ``folder``, and what turns it into kernels."""
    return {
        "program": json.loads((folder / FILE).read_text(encoding="utf-8")),
        "gpu": gpu.as_json,
        "code": [source_digest("slmkit_mlc"), source_digest("slmkit")],
        "tvm": version("apache-tvm"),
    }


def _processor() -> list[str]:
    """The kind of this processor, and what LLVM may use of it."""
    import tvm

    codegen = tvm.target.codegen
    return [platform.machine(), str(codegen.llvm_get_system_cpu())]
