"""Build one MIL program per chunk: the functions prefill and decode, which share all weights."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from pathlib import Path

import coremltools as ct
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Function, Program

from slmkit.backend.interface import Job
from slmkit.backend.partition import Part
from slmkit.backend.static_runner import Window
from slmkit_coreml.lowering.ane import AneOps
from slmkit_coreml.lowering.gpu import GpuOps
from slmkit_coreml.lowering.inputs import FunctionSignature, placeholder, prepare_inputs
from slmkit_coreml.lowering.ops import CoremlOps
from slmkit_coreml.lowering.weights import Array, WeightWriter
from slmkit_coreml.options import Form
from slmkit_coreml.package import Description, finalize

TARGET = ct.target.iOS18
LAYOUT_OPS: Mapping[str, type[CoremlOps]] = {"ane": AneOps, "gpu": GpuOps}


def build_program(
    job: Job, form: Form, chunk: Part, windows: Mapping[str, Window]
) -> tuple[Program, CoremlOps]:
    """Build a chunk's program; also return its ops, which know the names of embedding and taps."""
    mb.name_count.clear()  # else names of operations depend on what this process built before
    program = Program()
    arrays: dict[str, tuple[Array, ...]] = {}
    for name, window in windows.items():
        signature = FunctionSignature(job.model, form, chunk, window)
        function, ops = _function(job, signature, WeightWriter(job.codes, arrays))
        program.add_function(name, function)
    program.default_function_name = "decode"
    program.export_as_multifunction = True
    return program, ops


def write_package(program: Program, path: Path, description: Description | None = None) -> None:
    """Convert a program and save it as a package of deterministic bytes.

    No coremltools pass is run: the default pipeline merges reads of a state around its update
    (coremltools PR 2786), and rewrites indices.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves its folder to the GC
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
    finalize(path, description)


def _function(
    job: Job, signature: FunctionSignature, weights: WeightWriter
) -> tuple[Function, CoremlOps]:
    """One function of a chunk, and the ops that wrote it."""
    inputs = {name: placeholder(name, shape) for name, shape in signature.input_shapes().items()}
    with Function(inputs, TARGET) as function:
        known = prepare_inputs(signature, function.inputs)
        ops = LAYOUT_OPS[signature.form.layout.name](weights, signature, known, job.debug)
        logits = job.model.run(ops)
        if signature.chunk.last < signature.spec.layers:
            if ops.outgoing is None:
                raise ValueError(f"the chunk {signature.chunk.name} has no output")
            outputs = [mb.identity(x=ops.outgoing.variable, name="hidden_out")]
        else:
            outputs = [
                mb.identity(x=part, name=f"logits_{at}") for at, part in enumerate(logits.parts)
            ]
        function.set_outputs([*outputs, *ops.cache.outputs(), *ops.states.outputs, *ops.taps])
    return function, ops
