"""Writer of the ``mlc`` artifact: parameters, chat configuration, a library for each GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Mode, Progress, Report, Tensor, TokenFacts
from slmkit.backend.memory import at_once
from slmkit.backend.tokenizer_files import ship_file
from slmkit_mlc.chat_config import write_chat_config
from slmkit_mlc.compiler.mlc_llm import compile_with_mlc_llm
from slmkit_mlc.contract import (
    CHAT_CONFIG,
    CONSTRUCTORS,
    STATE_INPUTS,
    TENSOR_CACHE,
    contract,
    prefix_of,
)
from slmkit_mlc.conversation import DIFFERS, EXACT, NO_SYSTEM
from slmkit_mlc.declarations import RUNNING
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.libraries import find_or_build
from slmkit_mlc.lowering.definition import Definition, definition_for
from slmkit_mlc.options import COMPILER, chosen_gpus, library_name, quantization_name
from slmkit_mlc.shards import PARAMS, SHARD_MB
from slmkit_mlc.sizes import state_kinds
from slmkit_mlc.verify.metal import metal_present
from slmkit_mlc.verify.opencl import runtime

WORKERS = 2  # libraries compiled and checked at a time, at most
SLOW_PROMPTS = 2  # golden prompts for parity of a GPU's kernels, which are slow on a CPU
NO_OPENCL = "no OpenCL runtime is installed: no kernel was executed (the extra opencl has one)"
BY_MLC_LLM = "the libraries are mlc_llm's: none of their kernels was executed, only our program was"
NO_METAL = "no Metal GPU is here: its code was generated and never executed"
DATED = "the chat template writes today's date, which MLC's form cannot: it has no date"
TEMPLATE_LINES = {  # of the report, by fidelity of the chat template
    EXACT: [],
    NO_SYSTEM: ["MLC's form of the chat template has no place for a system's words"],
    DIFFERS: ["MLC has no form of this chat template: let the app render it, and send plain text"],
}


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """Write the parameters once, then compile a library for each GPU of the job's target."""
    definition = definition_for(job)
    gpus = [] if job.debug else chosen_gpus(job)  # only the program on the CPU has taps
    quantization = quantization_name(definition, job.about["recipe"])
    steps = len(gpus) + 1
    write_params(definition, job, folder / PARAMS)
    fidelity = write_chat_config(job, definition, quantization, folder / PARAMS / CHAT_CONFIG)
    _copy_tokenizer(job, folder / PARAMS)
    definition.write(folder)
    progress(1, steps)
    libraries: dict[str, dict[str, Any]] = {}
    workers = at_once(WORKERS, RUNNING.of(job.model.parameters))
    with ThreadPoolExecutor(workers) as pool:  # each thread waits for a worker process
        built = pool.map(lambda gpu: _build_library(job, gpu, quantization, folder), gpus)
        for done, (gpu, library) in enumerate(zip(gpus, built, strict=True), 2):
            libraries[gpu.name] = library
            progress(done, steps)
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
            "chat_template": fidelity,
        },
        shipped=definition.dtype,
        report=_report(libraries, fidelity, gpus, by_mlc_llm, job.tokens),
        ships={"": (f"{PARAMS}/*",), **{gpu: (facts["file"],) for gpu, facts in libraries.items()}},
        linked=("*.tar",),
    )


def write_params(definition: Definition, job: Job, folder: Path) -> None:
    """Write ``tensor-cache.json`` and its shards; one parameter at a time is in memory."""
    from tvm.contrib import tvmjs

    tvmjs.dump_tensor_cache(
        definition.table.values(job.codes),
        str(folder),
        encode_format="raw",
        shard_cap_mb=SHARD_MB,
        show_progress=False,
    )


def modes_of(gpus: Sequence[Gpu], dtype: str) -> tuple[Mode, ...]:
    """Modes for parity: on this CPU in float32 and in ``dtype``; kernels of GPUs on OpenCL, Metal.

    Kernels of GPUs only if their runtime is installed here. See ``slmkit_mlc.runner.MlcRunner``.
    """
    errors = {"float32": "lowering", dtype: "gpu" if dtype == "float16" else "lowering"}
    modes = [
        Mode(name, f"the program in {name}, on this processor", {"reference": error})
        for name, error in errors.items()
    ]
    bounds = {"reference": "gpu"}
    for gpu in gpus if runtime() else ():
        if gpu.is_opencl:
            name, about = gpu.name, "the library's own kernels, on a CPU"
        else:
            name = f"{gpu.name}-schedule"
            about = "its schedules, in OpenCL instead of Metal, on a CPU"
        modes.append(Mode(name, about, bounds, SLOW_PROMPTS))
    if metal_present() and any(gpu.target["kind"] == "metal" for gpu in gpus):
        modes.append(Mode("apple-metal", "on this Mac's GPU", bounds, SLOW_PROMPTS))
    return tuple(modes)


def _build_library(job: Job, gpu: Gpu, quantization: str, folder: Path) -> dict[str, Any]:
    """Compile one library, and check its kernels if an OpenCL runtime is installed.

    Returns its facts for the manifest.
    """
    name = library_name(job.about["model"], quantization, gpu)
    file = f"{name}.tar"
    if job.options.get("compiler") == COMPILER:
        config = folder / PARAMS / CHAT_CONFIG
        compiled = compile_with_mlc_llm(config, gpu, name, quantization, folder / file)
    else:
        check = runtime() is not None
        compiled = find_or_build(job, gpu, name, quantization, folder / file, check)
    return {"file": file, "model_lib": name, "prefix": prefix_of(name), **compiled}


def _copy_tokenizer(job: Job, folder: Path) -> None:
    """Copy the tokenizer's files that MLC reads."""
    names = contract()["tokenizer_files"]
    for path in job.tokens.files:
        if path.name in names:
            ship_file(path, folder, job.spec.vocabulary)


def _not_executed(gpus: Sequence[Gpu]) -> list[str]:
    """Reasons why some kernels of these GPUs cannot be executed on this machine."""
    reasons = [] if runtime() else [NO_OPENCL]
    metal = any(gpu.target["kind"] == "metal" for gpu in gpus)
    return [*reasons, NO_METAL] if metal and not metal_present() else reasons


def _report(
    libraries: Mapping[str, Mapping[str, Any]],
    fidelity: str,
    gpus: Sequence[Gpu],
    by_mlc_llm: bool,
    tokens: TokenFacts,
) -> Report:
    """The build's report: memory, executed kernels, chat template, kernels not executed."""
    not_executed = _not_executed(gpus)
    lines = [*_library_lines(libraries), *TEMPLATE_LINES[fidelity], *not_executed]
    lines += [DATED] if tokens.dated else []
    if tokens.generation.top_k:
        top_k = tokens.generation.top_k
        lines.append(f"the author's top_k of {top_k} is left to the app: MLC's file has no place")
    if by_mlc_llm:
        not_executed = [*not_executed, BY_MLC_LLM]
    return Report(tuple(lines), not_executed=tuple(f"mlc: {reason}" for reason in not_executed))


def _library_lines(libraries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines about each GPU's library: working memory, executed kernels."""
    lines = []
    for gpu, facts in libraries.items():
        if facts["memory"]:
            megabytes = max(facts["memory"].values()) / 1e6
            lines.append(f"{gpu}: at most {megabytes:.1f} MB of working memory, by the static plan")
        if "kernels" in facts:
            lines.append(f"{gpu}: {_kernel_line(facts['kernels'])}")
    return lines


def _kernel_line(result: Mapping[str, Any]) -> str:
    """The result of ``slmkit_mlc.verify.kernels.check_kernels`` in words."""
    names = [name.removesuffix("_kernel") for name in result["not_executed"]]
    return (
        f"{result['executed']} of {result['kernels']} kernels executed on {result['runtime']}; "
        f"{result['compared']} functions compared, the worst {result['worst']} at "
        f"{result['worst_db']} dB; not executed: {', '.join(names) or 'none'}"
    )


def _io_tensors(definition: Definition) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of ``decode``; the artifact's facts have those of every function."""
    spec = definition.spec
    row = Tensor(
        "input_embed", definition.dtype, (1, 1, spec.width), "a row that the function embed gave"
    )
    states = tuple(
        Tensor(STATE_INPUTS[kind], "object", (), f"made by {CONSTRUCTORS[kind]}")
        for kind in state_kinds(definition.model)
    )
    params = Tensor("packed_params", "tuple", (), f"the parameters of {TENSOR_CACHE}, in order")
    logits = Tensor("logits", "float32", (1, 1, spec.vocabulary), "next-token scores")
    return (row, *states, params), (logits, *states)
