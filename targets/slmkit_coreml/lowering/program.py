"""One MIL program per chunk, with the functions prefill and decode, which share every weight."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Function, Program

from slmkit.backend.interface import Job
from slmkit.backend.partition import Part
from slmkit.backend.static_runner import Window
from slmkit_coreml.lowering.ane import AneOps
from slmkit_coreml.lowering.gpu import GpuOps
from slmkit_coreml.lowering.inputs import Border, given, placeholder
from slmkit_coreml.lowering.ops import CoremlOps
from slmkit_coreml.lowering.weights import Array, WeightWriter
from slmkit_coreml.options import Form
from slmkit_coreml.package import Description, finish

TARGET = ct.target.iOS18
LAYOUT_OPS: Mapping[str, type[CoremlOps]] = {"ane": AneOps, "gpu": GpuOps}


def build_program(
    job: Job, form: Form, chunk: Part, windows: Mapping[str, Window]
) -> tuple[Program, CoremlOps]:
    """The program, and the ops that wrote it: they know the embedding's name, and the taps'."""
    program = Program()
    arrays: dict[str, tuple[Array, ...]] = {}
    for name, window in windows.items():
        border = Border(job.model, form, chunk, window)
        function, ops = _function(job, border, WeightWriter(job.codes, arrays))
        program.add_function(name, function)
    program.default_function_name = "decode"
    program.export_as_multifunction = True
    return program, ops


def write_package(program: Program, path: Path, description: Description | None = None) -> None:
    """Convert, and save a package whose bytes depend on the program and description alone.

    No pass may touch the program: the default pipeline merges reads of a state around its update
    (coremltools PR 2786), and rewrites indices.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its folder is left to the collector
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=TARGET,
            compute_precision=ct.precision.FLOAT16,
            compute_units=ct.ComputeUnit.CPU_AND_NE,
            skip_model_load=True,
            pass_pipeline=ct.PassPipeline.EMPTY,
        )
        model.save(str(path))
        del model
        gc.collect()
    finish(path, description)


def _function(job: Job, border: Border, weights: WeightWriter) -> tuple[Function, CoremlOps]:
    inputs = {name: placeholder(name, shape) for name, shape in border.shapes().items()}
    with Function(inputs, TARGET) as function:
        known = given(border, function.inputs)
        ops = LAYOUT_OPS[border.form.layout.name](weights, border, known, job.debug)
        logits = job.model.run(ops)
        if border.chunk.last < border.spec.layers:
            if ops.left is None:
                raise ValueError(f"nothing leaves the chunk {border.chunk.name}")
            outputs = [mb.identity(x=ops.left.whole, name="hidden_out")]
        else:
            outputs = [_named(part, f"logits_{at}") for at, part in enumerate(logits.parts)]
        function.set_outputs([*outputs, *ops.cache.outputs(), *ops.kept, *ops.taps])
    return function, ops


def _named(variable: Any, name: str) -> Any:
    return mb.identity(x=variable, name=name)
