"""Write the ``mlc`` artifact: parameters, chat configuration, a library for each GPU."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Mode, Progress, Report, Tensor
from slmkit.system.subprocess_worker import call
from slmkit_mlc.chat_config import DIFFERS, EXACT, NO_SYSTEM, write_chat_config
from slmkit_mlc.compiler.mlc_llm import compile_with_mlc_llm
from slmkit_mlc.contract import CHAT_CONFIG, CREATE, TENSOR_CACHE, VARIABLE, contract, prefix_of
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition, definition_for
from slmkit_mlc.options import COMPILER, chosen_gpus, library_name, quantization_of
from slmkit_mlc.shards import PARAMS, SHARD_MB
from slmkit_mlc.sizes import state_kinds
from slmkit_mlc.verify.metal import metal_present
from slmkit_mlc.verify.opencl import runtime

TOGETHER = 2  # libraries compiled at a time
SLOW = 2  # golden prompts that a GPU's kernels read on a CPU
NO_OPENCL = "no OpenCL runtime is installed: no kernel was executed (the extra opencl has one)"
NOT_OURS = "the libraries are mlc_llm's: none of their kernels was executed, only our program was"
NO_METAL = "no Metal GPU is here: its code was generated and never executed"
TEMPLATE = {  # what MLC's form of the chat template cannot say
    EXACT: [],
    NO_SYSTEM: ["MLC's form of the chat template has no place for a system's words"],
    DIFFERS: ["MLC has no form of this chat template: let the app render it, and send plain text"],
}


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """Convert the parameters once, then compile for one GPU after the other."""
    definition = definition_for(job)
    gpus = [] if job.debug else chosen_gpus(job)  # taps are of the program on this processor
    quantization = quantization_of(definition, job.about["recipe"])
    steps = len(gpus) + 1
    write_params(definition, job, folder / PARAMS)
    likeness = write_chat_config(job, definition, quantization, folder / PARAMS / CHAT_CONFIG)
    _copy_tokenizer(job, folder / PARAMS)
    definition.write(folder)
    progress(1, steps)
    libraries: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(TOGETHER) as pool:  # each waits for a process of its own
        made = pool.map(lambda gpu: _library(job, gpu, quantization, folder), gpus)
        for at, (gpu, library) in enumerate(zip(gpus, made, strict=True)):
            libraries[gpu.name] = library
            progress(at + 2, steps)
    inputs, outputs = _io_tensors(definition)
    by_mlc_llm = job.options.get("compiler") == COMPILER
    return Artifact(
        job.artifact,
        version,
        "MLC model library (TVM system library) and parameters",
        modes_of(() if by_mlc_llm else gpus, definition.dtype),
        inputs,
        outputs,
        job.state,
        facts={
            "params": PARAMS,
            "libraries": libraries,
            "quantization": quantization,
            "layout": definition.layout,
            "prefill": definition.limits.prefill,
            "chat_template": likeness,
        },
        shipped=definition.dtype,
        report=_report(libraries, likeness, gpus, by_mlc_llm),
    )


def write_params(definition: Definition, job: Job, folder: Path) -> None:
    """``tensor-cache.json`` and its shards, a parameter at a time."""
    from tvm.contrib import tvmjs

    tvmjs.dump_tensor_cache(
        definition.table.values(job.codes),
        str(folder),
        encode_format="raw",
        shard_cap_mb=SHARD_MB,
        show_progress=False,
    )


def modes_of(gpus: Sequence[Gpu], dtype: str) -> tuple[Mode, ...]:
    """On this processor, in float32 and as it ships; each GPU's kernels where a runtime takes
    them."""
    errors = {"float32": "lowering", dtype: "gpu" if dtype == "float16" else "lowering"}
    modes = [
        Mode(each, f"the program in {each}, on this processor", {"reference": error})
        for each, error in errors.items()
    ]
    for gpu in gpus if runtime() else ():
        own = gpu.target["kind"] == "opencl"
        about = "the library's own kernels" if own else "its schedules, in OpenCL instead of Metal"
        name = gpu.name if own else f"{gpu.name}-schedule"
        modes.append(Mode(name, f"{about}, on a CPU", {"reference": "gpu"}, SLOW))
    if metal_present() and any(gpu.target["kind"] == "metal" for gpu in gpus):
        modes.append(Mode("apple-metal", "on this Mac's GPU", {"reference": "gpu"}, SLOW))
    return tuple(modes)


def _library(job: Job, gpu: Gpu, quantization: str, folder: Path) -> dict[str, Any]:
    """Compile one library, and execute its kernels where a runtime takes them."""
    name = library_name(job.about["model"], quantization, gpu)
    file = f"{name}.tar"
    made = _compiled(job, gpu, name, quantization, folder / file)
    found = {"file": file, "model_lib": name, "prefix": prefix_of(name), **made}
    if runtime() and made["functions"]:
        own = file if gpu.target["kind"] == "opencl" else None  # Metal's language runs nowhere here
        payload = {"folder": str(folder), "params": PARAMS, "gpu": gpu.name, "library": own}
        about = f"executes the kernels of {gpu.name}"
        found["kernels"] = call("slmkit_mlc.verify.kernels:check_job", payload, _quiet, about)
    return found


def _compiled(job: Job, gpu: Gpu, name: str, quantization: str, out: Path) -> dict[str, Any]:
    """One library: by TVM in a process of its own, or by mlc_llm."""
    if job.options.get("compiler") == COMPILER:
        return compile_with_mlc_llm(out.parent / PARAMS / CHAT_CONFIG, gpu, name, quantization, out)
    payload = {
        "folder": str(out.parent),
        "gpu": gpu.as_json,
        "library": name,
        "quantization": quantization,
        "out": str(out),
    }
    found: dict[str, Any] = call(
        "slmkit_mlc.compiler.compile:compile_job", payload, _quiet, f"compiles for {gpu.name}"
    )
    return found


def _quiet(done: int, total: int) -> None:
    """Progress is told of whole libraries."""


def _copy_tokenizer(job: Job, folder: Path) -> None:
    names = contract()["tokenizer_files"]
    for path in job.tokens.files:
        if path.name in names:
            shutil.copyfile(path, folder / path.name)


def _not_executed(gpus: Sequence[Gpu]) -> list[str]:
    found = [] if runtime() else [NO_OPENCL]
    metal = any(gpu.target["kind"] == "metal" for gpu in gpus)
    return [*found, NO_METAL] if metal and not metal_present() else found


def _report(
    libraries: Mapping[str, Mapping[str, Any]],
    likeness: str,
    gpus: Sequence[Gpu],
    by_mlc_llm: bool,
) -> Report:
    """Memory, executed kernels, the chat template, and what could not be executed."""
    unrun = _not_executed(gpus)
    lines = [*_library_lines(libraries), *TEMPLATE[likeness], *unrun]
    if by_mlc_llm:
        unrun = [*unrun, NOT_OURS]
    return Report(tuple(lines), not_executed=tuple(f"mlc: {why}" for why in unrun))


def _library_lines(libraries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = []
    for gpu, each in libraries.items():
        if each["memory"]:
            most = max(each["memory"].values()) / 1e6
            lines.append(f"{gpu}: at most {most:.1f} MB of working memory, by the static plan")
        if "kernels" in each:
            lines.append(f"{gpu}: {_executed(each['kernels'])}")
    return lines


def _executed(found: Mapping[str, Any]) -> str:
    """How many kernels were executed, how many of their functions were compared."""
    left = ", ".join(name.removesuffix("_kernel") for name in found["not_executed"]) or "none"
    return (
        f"{found['executed']} of {found['kernels']} kernels executed on {found['runtime']}; "
        f"{found['compared']} functions compared, the worst {found['worst']} at "
        f"{found['worst_db']} dB; not executed: {left}"
    )


def _io_tensors(definition: Definition) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What ``decode`` takes and gives; ``functions`` in the facts have the others."""
    spec = definition.spec
    row = Tensor(
        "input_embed", definition.dtype, (1, 1, spec.width), "a row that the function embed gave"
    )
    kept = tuple(
        Tensor(VARIABLE[each], "object", (), f"made by {CREATE[each]}")
        for each in state_kinds(definition.model)
    )
    params = Tensor("packed_params", "tuple", (), f"the parameters of {TENSOR_CACHE}, in order")
    logits = Tensor("logits", "float32", (1, 1, spec.vocabulary), "next-token scores")
    return (row, *kept, params), (logits, *kept)
