"""Libraries in the build cache: one depends on the program and its GPU, not on the weights.

So other codes of a recipe (another calibration text, weights that were trained on) bind their
parameters to the same library. Whether its kernels compute what their functions say, on the numbers
of the first of these models, is kept too.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Job
from slmkit.system.cache import Cache, file_hash, key_of
from slmkit.system.source import source_digest
from slmkit.system.subprocess_worker import call
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import FILE

KIND, CHECK_KIND = "library", "library-check"
LIBRARY, FACTS = "library.tar", "facts.json"  # files of the entry in the cache


def find_or_compile(job: Job, gpu: Gpu, name: str, quantization: str, out: Path) -> dict[str, Any]:
    """Write the library ``name`` of the program in ``out``'s folder to ``out``.

    It is taken from the job's cache, or compiled by TVM in a worker process and added to it.
    Returns ``functions`` with their signatures, and their ``memory`` in bytes.
    """
    if job.cache is None:
        return _compile(gpu, name, quantization, out.parent, out)
    cache, key = Cache(job.cache), _key(gpu, name, quantization, out.parent)
    entry = cache.find(KIND, key)
    if entry is None:
        with cache.making(KIND, key) as making:
            made = _compile(gpu, name, quantization, out.parent, making / LIBRARY)
            (making / FACTS).write_text(json.dumps(made), encoding="utf-8")
        entry = cache.entry(KIND, key)
    shutil.copyfile(entry / LIBRARY, out)
    return _read(entry)


def find_or_check(
    job: Job, gpu: Gpu, library: Path, compare: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """The result of ``compare``, which runs the kernels of a library, or that of the same library.

    It is taken from the job's cache, or found and added to it; an error of ``compare`` is raised.
    """
    if job.cache is None:
        return compare()
    facts = _about_code(gpu, library.parent)
    packages = {name: version(name) for name in ("intel-opencl-rt", "pyopencl")}
    cache, key = Cache(job.cache), key_of({**facts, **packages, "library": file_hash(library)})
    entry = cache.find(CHECK_KIND, key)
    if entry is None:
        found = compare()
        with cache.making(CHECK_KIND, key) as making:
            (making / FACTS).write_text(json.dumps(found), encoding="utf-8")
        return found
    return _read(entry)


def _read(entry: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((entry / FACTS).read_text(encoding="utf-8"))
    return facts


def _compile(gpu: Gpu, name: str, quantization: str, folder: Path, out: Path) -> dict[str, Any]:
    """Compile the program in ``folder``."""
    payload = {
        "folder": str(folder),
        "gpu": gpu.as_json,
        "library": name,
        "quantization": quantization,
        "out": str(out),
    }
    facts: dict[str, Any] = call(
        "slmkit_mlc.compiler.compile:compile_job",
        payload,
        lambda done, total: None,
        f"compiles for {gpu.name}",
    )
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
