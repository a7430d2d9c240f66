"""Writer of the ``litert`` artifact: graph template, weights, bundle, report of XNNPACK's share."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.interface import Artifact, Job, Mode, Progress, Report, Tensor
from slmkit.backend.static_runner import prefill_tokens
from slmkit.errors import BackendError
from slmkit.system.subprocess_worker import call
from slmkit_litert.contract import LABEL, cache_tensors
from slmkit_litert.files import MODEL, bundle_names
from slmkit_litert.litertlm import write_bundles
from slmkit_litert.lowering.graph_template import FILE, NAMES, PROOF_FILE, find_or_trace
from slmkit_litert.lowering.weight_binding import WeightBinder, read_model, weights_of
from slmkit_litert.lowering.weight_layout import WeightLayout, weight_layout, weight_shapes
from slmkit_litert.verify.delegation import report_lines, undelegated_arithmetic
from slmkit_litert.weights import encode_weight

NO_PENALTY = "LiteRT-LM's metadata has no place for it"
NO_BUNDLE = "no .litertlm: LiteRT-LM keeps caches, and no states of layers without attention"
CHUNKS = "logits of chunks by the prefill graph with logits, whose caches are those of prefill"
# In larger models every token has, in some layer, an activation on the border between two of its
# 256 quantization steps, which may be rounded either way: the reference with rounding is then no
# closer to the kernels than the exact one (0.5B: 27.8 and 27.0 dB).
ROUNDING_LIMIT = 32_000_000  # parameters


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """Trace or load the graph template, bind the weights, check their bytes, pack the bundles."""
    prefill = prefill_tokens(job.prefill_chunk, job.context_length)
    layout = weight_layout(job.model, job.codes.schemes)
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        template = find_or_trace(job, prefill, layout, Path(scratch))
        progress(1, 4)
        names = json.loads((template / NAMES).read_text(encoding="utf-8"))
        _bind_weights(job, (template / FILE).read_bytes(), names["weights"], layout, folder / MODEL)
        shutil.copyfile(template / PROOF_FILE, folder / PROOF_FILE)
    progress(2, 4)
    check_bytes(job, layout, folder / MODEL)
    delegation = call(
        "slmkit_litert.verify.delegation:delegation_job",
        {"model": str(folder / MODEL)},
        lambda done, total: None,
        "plans the model with XNNPACK",
    )
    _check_delegation(job, delegation)
    progress(3, 4)
    bundles = bundle_names(job.model, job.options)
    write_bundles(job, folder / MODEL, folder, bundles)
    inputs, outputs = _io_tensors(job)
    return Artifact(
        job.artifact,
        version,
        "LiteRT .tflite and .litertlm" if bundles else "LiteRT .tflite",
        modes_of(job),
        inputs,
        outputs,
        job.state,
        facts={
            "model": MODEL,
            "proof": PROOF_FILE,
            "prefill": prefill,
            "delegation": dict(delegation),
            "taps": names["taps"],
            "bundles": bundles,
        },
        report=Report((*report_lines(delegation), *_bundle_lines(job, bool(bundles)))),
        ships={"": tuple(bundles[-1:]) or (MODEL,)},
        app_tokenizer=not bundles,
    )


def _bundle_lines(job: Job, bundled: bool) -> list[str]:
    """Lines of the report about what the bundles lack."""
    if not bundled:
        return [NO_BUNDLE]
    penalty = job.tokens.generation.repetition_penalty
    lost = f"the author's repetition_penalty of {penalty:g} is left to the app: {NO_PENALTY}"
    return [lost] if penalty != 1 else []


def modes_of(job: Job) -> tuple[Mode, ...]:
    """Modes for parity: the graph in float32, and as shipped.

    As shipped it is also compared with the reference that rounds activations to 8 bits, if the
    model has at most ROUNDING_LIMIT parameters.
    """
    bounds = {"rounded": "kernels", "reference": "shipped"}
    if job.model.parameters > ROUNDING_LIMIT:
        bounds = {"reference": "shipped"}
    return (
        Mode(
            "float32",
            f"the same graphs with their weights dequantized; {CHUNKS}",
            {"reference": "lowering"},
        ),
        Mode("shipped", f"as shipped: kernels that round activations to 8 bits; {CHUNKS}", bounds),
    )


def check_bytes(job: Job, layout: WeightLayout, path: Path) -> None:
    """Compare codes and scales of the written file with the bundle's, byte for byte.

    Raises BackendError for the first tensor that differs.
    """
    stored = weights_of(*read_model(path))
    for tensor, shape in weight_shapes(job.model, layout).items():
        expected, got = encode_weight(job.codes, tensor, shape), stored[tensor]
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


def _bind_weights(
    job: Job, template: bytes, names: Mapping[str, str], layout: WeightLayout, path: Path
) -> None:
    """Write the .tflite; ``names``: the tensor of each weight input of the template."""
    binder, shapes = WeightBinder(template), weight_shapes(job.model, layout)
    for name, tensor in names.items():
        encode = partial(encode_weight, job.codes, tensor, shapes[tensor])
        binder.bind(name, encode, LABEL + tensor)
    binder.write(path)


def _check_delegation(job: Job, delegation: Mapping[str, Any]) -> None:
    """Raise BackendError for arithmetic outside of XNNPACK, with ``require: delegation``."""
    outside = undelegated_arithmetic(delegation)
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
