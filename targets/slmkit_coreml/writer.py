"""Write the ``coreml`` artifact: the packages, the embedding file, the facts for apps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, Job, Mode, Progress
from slmkit.backend.partition import Part
from slmkit.backend.static_runner import Window, prefill_tokens
from slmkit.errors import BackendError
from slmkit_coreml.embedding import write_embedding
from slmkit_coreml.files import package_name
from slmkit_coreml.io_description import (
    describe,
    host_duties,
    interfaces,
    merge_interfaces,
    residency_report,
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
class WrittenPackages:
    """Facts of the packages that are written so far."""

    embedding_name: str = ""
    taps: dict[str, str] = field(default_factory=dict)
    packages: list[dict[str, Any]] = field(default_factory=list)
    residency: dict[str, Any] = field(default_factory=dict)


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """Write the artifact into the empty ``folder``, one package after another."""
    form = read(job.options)
    windows = _windows(job, form)
    chunks = plan_chunks(job.model, job.codes.schemes, form, job.context_length)
    packages = interfaces(job, form, chunks, windows)
    written = WrittenPackages()
    for number, (chunk, interface) in enumerate(zip(chunks, packages, strict=True), 1):
        path = folder / package_name(number, len(chunks))
        program, ops = build_program(job, form, chunk, windows)
        write_package(program, path, describe(job, form, chunk, interface, version))
        del program
        written.embedding_name = ops.embedding_name or written.embedding_name
        written.taps |= ops.tap_names
        _add_package(written, job, form, chunk, path, [each.name for each in interface[1]])
        progress(number, len(chunks) + 1)
    _require(form, written.residency)
    inputs, outputs = merge_interfaces(packages)
    facts = _facts(job, form, windows, written)
    facts["host"] = host_duties(inputs, len(chunks))
    if not form.self_contained:
        facts["embedding"] = write_embedding(job.codes, written.embedding_name, folder)
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
        ships={"": ("*",)},
        app_tokenizer=True,
    )


def _windows(job: Job, form: Form) -> dict[str, Window]:
    """The window of each function."""
    most = min(job.prefill_chunk, ANE_PREFILL if form.layout.name == "ane" else job.prefill_chunk)
    chunk, slots = prefill_tokens(most, job.context_length), form.slots(job.context_length)
    return {
        name: Window(tokens, slots - tokens) for name, tokens in (("prefill", chunk), ("decode", 1))
    }


def _add_package(
    written: WrittenPackages,
    job: Job,
    form: Form,
    chunk: Part,
    path: Path,
    outputs: Sequence[str],
) -> None:
    """Add the facts of a written package, and for the Neural Engine its predicted residency."""
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
    if form.layout.name != "ane":  # the rules are about the Neural Engine
        return
    prefix = "" if chunk.name == "model" else f"{path.stem} "
    plan = compute_plan(path, form.compute_units) if on_macos() else {}
    for name, report in inspect(path).items():
        own_plan = {"compute_plan": plan[name]} if name in plan else {}
        written.residency[prefix + name] = {**report, **own_plan}


def _require(form: Form, report: Mapping[str, Any]) -> None:
    """Raise BackendError if a rule is violated and the recipe has ``require: ane``."""
    found = violations(report)
    if form.require_ane and found:
        raise BackendError(
            f"the package would leave the Neural Engine: {'; '.join(found)}",
            "choose a recipe with palettes or per-channel weights, or leave require out",
        )


def _facts(
    job: Job, form: Form, windows: Mapping[str, Window], written: WrittenPackages
) -> dict[str, Any]:
    """The manifest's facts."""
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
