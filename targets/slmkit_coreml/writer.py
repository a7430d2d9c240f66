"""Write the ``coreml`` artifact: the packages, the embedding file, the facts an app reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Mode, Progress
from slmkit.backend.partition import Part
from slmkit.backend.static_runner import Window, prefill_tokens
from slmkit.errors import BackendError
from slmkit_coreml.contract import ALIGNMENT
from slmkit_coreml.embedding import write_embedding
from slmkit_coreml.files import package_name
from slmkit_coreml.io_description import (
    borders,
    describe,
    host_duties,
    residency_report,
    whole_border,
)
from slmkit_coreml.lowering.program import build_program, write_package
from slmkit_coreml.options import Form, plan_chunks, read
from slmkit_coreml.verify.device import compute_plan, on_macos
from slmkit_coreml.verify.residency import inspect, violations

ANE_PREFILL = 64  # tokens: longer chunks do not help the Neural Engine
MODES = (
    Mode("float32", "the saved package, evaluated without rounding", {"reference": "lowering"}),
    Mode(
        "float16",
        "every operation's output rounded to float16: an estimate of the device; on "
        "macOS, Core ML itself",
        {"reference": "float16"},
    ),
)


@dataclass
class Written:
    """What the packages turned out to be."""

    table: str = ""  # the embedding's name
    taps: dict[str, str] = field(default_factory=dict)
    packages: list[dict[str, Any]] = field(default_factory=list)
    residency: dict[str, Any] = field(default_factory=dict)


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """Chunk by chunk: one program, one conversion, one package."""
    form = read(job.options)
    windows = _windows(job, form)
    chunks = plan_chunks(job.model, job.codes.schemes, form, job.context_length)
    sides = borders(job, form, chunks, windows)
    written = Written()
    for number, (chunk, side) in enumerate(zip(chunks, sides, strict=True), 1):
        path = folder / package_name(number, len(chunks))
        program, ops = build_program(job, form, chunk, windows)
        write_package(program, path, describe(job, form, chunk, side, version))
        del program
        written.table, written.taps = ops.table or written.table, {**written.taps, **ops.tapped}
        _note(written, job, form, chunk, path, [each.name for each in side[1]])
        progress(number, len(chunks) + 1)
    _require(form, written.residency)
    inputs, outputs = whole_border(sides)
    facts = _facts(job, form, windows, written)
    facts["host"] = host_duties(inputs, len(chunks))
    if not form.self_contained:
        facts["embedding"] = write_embedding(job.codes, written.table, folder)
    return Artifact(
        job.artifact,
        version,
        "Core ML ML Program, iOS 18",
        MODES,
        inputs,
        outputs,
        job.state,
        facts,
        "float32",
        residency_report(written.residency),
    )


def _windows(job: Job, form: Form) -> dict[str, Window]:
    """How many tokens each function reads."""
    context = job.context_length
    if form.cache != "io" and context % ALIGNMENT:
        raise BackendError(
            f"a Core ML state of {context} tokens is no multiple of {ALIGNMENT}",
            "choose another --context, or kv_cache: io",
        )
    most = min(job.prefill_chunk, ANE_PREFILL if form.layout.name == "ane" else job.prefill_chunk)
    chunk = prefill_tokens(most, context)
    return {
        name: Window(tokens, context - tokens)
        for name, tokens in (("prefill", chunk), ("decode", 1))
    }


def _note(
    written: Written, job: Job, form: Form, chunk: Part, path: Path, outputs: Sequence[str]
) -> None:
    layers = chunk.layers(job.spec.layers)
    written.packages.append(
        {
            "package": path.name,
            "first_layer": chunk.first,
            "layers": len(layers),
            "attention_layers": [layer for layer in job.model.attention_layers if layer in layers],
            "outputs": list(outputs),
            "weights": (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size,
        }
    )
    if form.layout.name != "ane":  # the rules are the Neural Engine's
        return
    prefix = "" if chunk.name == "model" else f"{path.stem} "
    plan = compute_plan(path, form.compute_units) if on_macos() else {}
    for name, report in inspect(path).items():
        beside = {"compute_plan": plan[name]} if name in plan else {}
        written.residency[prefix + name] = {**report, **beside}


def _require(form: Form, report: Mapping[str, Any]) -> None:
    """With ``require: ane``, what a rule forbids is an error."""
    broken = violations(report)
    if form.require_ane and broken:
        raise BackendError(
            f"the package would leave the Neural Engine: {'; '.join(broken)}",
            "choose a recipe with palettes or per-channel weights, or leave require out",
        )


def _facts(job: Job, form: Form, windows: Mapping[str, Window], written: Written) -> dict[str, Any]:
    spec = job.spec
    return {
        "packages": written.packages,
        "layout": form.layout.name,
        "kv_cache": form.cache,
        "self_contained": form.self_contained,
        "compute_units": form.compute_units,
        "logits": len(form.logits(spec.vocabulary)),
        "ropes": [
            {"frequencies": list(rope.frequencies), "magnitude": rope.magnitude}
            for rope in spec.ropes
        ],
        "windows": list(dict.fromkeys(spec.windows)),
        "functions": {
            name: {"tokens": window.tokens, "past": window.past} for name, window in windows.items()
        },
        "residency": written.residency,
        "taps": written.taps,
    }
