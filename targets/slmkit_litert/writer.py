"""Write the ``litert`` artifact: skeleton, weights, bundle, and what XNNPACK takes of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.interface import Artifact, Job, Mode, Progress, Report, Tensor
from slmkit.backend.static_runner import prefill_tokens
from slmkit.errors import BackendError
from slmkit.system.subprocess_worker import call
from slmkit_litert.contract import cache_tensors
from slmkit_litert.files import MODEL, bundles
from slmkit_litert.litertlm import pack
from slmkit_litert.lowering.graph_template import FILE, NAMES, skeleton, tensors_of
from slmkit_litert.lowering.weight_binding import LABEL, Binder, read_model, weights_of
from slmkit_litert.options import filled_widths
from slmkit_litert.verify.delegation import not_delegated, said
from slmkit_litert.weights import bound

NO_BUNDLE = "no .litertlm: LiteRT-LM keeps caches, and no states of layers without attention"
# Above, every token meets, in some layer, a number on the border of two of its 256 steps, which
# falls either way: the rounding reference is no nearer than the exact one (0.5B: 27.8, 27.0 dB).
ROUNDING_LIMIT = 32_000_000  # parameters


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """Trace (or take from the cache), bind, check the bytes, pack."""
    prefill = prefill_tokens(job.prefill_chunk, job.context_length)
    widths = filled_widths(job.model, job.codes.schemes)
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        made = skeleton(job, prefill, widths, Path(scratch))
        progress(1, 4)
        names = json.loads((made / NAMES).read_text(encoding="utf-8"))
        _bind(job, (made / FILE).read_bytes(), names["weights"], widths, folder / MODEL)
    progress(2, 4)
    check_bytes(job, widths, folder / MODEL)
    report = call(
        "slmkit_litert.verify.delegation:delegation_job",
        {"model": str(folder / MODEL)},
        lambda done, total: None,
        "plans the model with XNNPACK",
    )
    _require(job, report)
    progress(3, 4)
    packed = bundles(job.model, job.options)
    pack(job, folder / MODEL, folder, packed)
    inputs, outputs = _io_tensors(job)
    return Artifact(
        job.artifact,
        version,
        "LiteRT .tflite and .litertlm" if packed else "LiteRT .tflite",
        modes_of(job),
        inputs,
        outputs,
        job.state,
        facts={
            "model": MODEL,
            "prefill": prefill,
            "delegation": dict(report),
            "taps": names["taps"],
            "bundles": packed,
        },
        report=Report((*said(dict(report)), *([] if packed else [NO_BUNDLE]))),
    )


def modes_of(job: Job) -> tuple[Mode, ...]:
    """The graph in float32; as shipped, against the reference that rounds alike where it tells."""
    against = {"rounded": "kernels", "reference": "shipped"}
    if job.model.parameters > ROUNDING_LIMIT:
        against = {"reference": "shipped"}
    return (
        Mode("float32", "the same graph with its weights dequantized", {"reference": "lowering"}),
        Mode("shipped", "as shipped: kernels that round activations to 8 bits", against),
    )


def check_bytes(job: Job, widths: Mapping[str, int], path: Path) -> None:
    """Codes and scales in the written file are the bundle's, byte for byte."""
    stored = weights_of(*read_model(path))
    for tensor, shape in tensors_of(job.model, widths).items():
        expected, got = bound(job.codes, tensor, shape), stored[tensor]
        same = np.array_equal(
            np.ascontiguousarray(expected.data).view(np.uint8).reshape(-1), got.data
        )
        if expected.scales is not None:
            same &= got.scales is not None and np.array_equal(expected.scales, got.scales)
        if not same:
            raise BackendError(
                f"{path.name} holds other bytes for {tensor} than the bundle's codes",
                "please report this",
            )


def _bind(
    job: Job, graph: bytes, weights: Mapping[str, str], widths: Mapping[str, int], path: Path
) -> None:
    binder, shapes = Binder(graph), tensors_of(job.model, widths)
    for name, tensor in weights.items():
        binder.bind(name, bound(job.codes, tensor, shapes[tensor]), LABEL + tensor)
    binder.write(path)


def _require(job: Job, report: Mapping[str, Any]) -> None:
    """With ``require: delegation``, arithmetic outside of XNNPACK is an error."""
    outside = not_delegated(dict(report))
    if "require" in job.options and outside:
        raise BackendError(
            f"XNNPACK does not take the whole model: {'; '.join(outside)}",
            "leave require out, or choose a recipe of int8 per channel or int4",
        )


def _io_tensors(job: Job) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs of both signatures."""
    total = job.context_length
    inputs = (
        Tensor("tokens", "int32", (1, "tokens"), "token ids"),
        Tensor("input_pos", "int32", ("tokens",), "their positions"),
        Tensor(
            "mask", "float32", (1, 1, "tokens", total), "added to the scores: 0, or -0.7 FLT_MAX"
        ),
    )
    caches = cache_tensors(job.state)
    shape = (1, 1, job.spec.vocabulary)
    logits = Tensor("logits", "float32", shape, "next-token scores; decode only")
    return (*inputs, *caches), (logits, *caches)
