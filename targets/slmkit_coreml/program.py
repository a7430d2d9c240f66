"""One MIL program with the functions prefill and decode, which share every weight."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Function, Program, types
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

from slmkit.host import Window, rope_names
from slmkit.target import Job, Spec
from slmkit_coreml.attention import AttentionWriter
from slmkit_coreml.contract import mask_name
from slmkit_coreml.ops import CoremlOps
from slmkit_coreml.package import normalize
from slmkit_coreml.weights import WeightWriter

TARGET = ct.target.iOS18


def build_program(job: Job, windows: Mapping[str, Window], cache: str) -> tuple[Program, CoremlOps]:
    """The program, and the ops that wrote it: they know the embedding's name, and the taps'."""
    program = Program()
    for name, window in windows.items():
        function, ops = _function(job, window, cache)
        program.add_function(name, function)
    program.default_function_name = "decode"
    program.export_as_multifunction = True
    _share_constants(program)
    return program, ops


def write_package(program: Program, path: Path) -> None:
    """Convert, and save a package whose bytes depend on the program alone.

    No pass may touch the program: the default pipeline merges reads of a state around its update
    (coremltools PR 2786), and rewrites indices.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # its folder is left to the collector
        model = ct.convert(
            program, convert_to="mlprogram", minimum_deployment_target=TARGET,
            compute_precision=ct.precision.FLOAT16, compute_units=ct.ComputeUnit.CPU_AND_NE,
            skip_model_load=True, pass_pipeline=ct.PassPipeline.EMPTY,
        )  # fmt: skip
        model.save(str(path))
        del model
        gc.collect()
    normalize(path)


def input_shapes(spec: Spec, window: Window, cache: str) -> dict[str, tuple[int, ...]]:
    """Every input of a function; states are those whose names end in _cache."""
    masks = {
        mask_name(each): (1, window.total, 1, window.tokens) for each in dict.fromkeys(spec.windows)
    }
    tables = dict.fromkeys(rope_names(0), (1, 1, spec.head_width // 2, window.tokens))
    embeds = (1, spec.width, 1, window.tokens)
    return {"embeds": embeds, **tables, **masks, **_cache_shapes(spec, window, cache)}


def _cache_shapes(spec: Spec, window: Window, cache: str) -> dict[str, tuple[int, ...]]:
    def lines(tokens: int) -> tuple[int, ...]:
        return (spec.layers, spec.kv_heads * spec.head_width, 1, tokens)

    if cache == "io":
        return dict.fromkeys(("past_keys", "past_values"), lines(window.past))
    states = dict.fromkeys(("key_cache", "value_cache"), lines(window.total))
    if cache == "state-slice":
        return {**states, "position": (1,)}
    place = (1, window.tokens, 1, window.total)
    return {**states, "keep": (1, 1, 1, window.total), "place": place}


def _input(name: str, shape: tuple[int, ...]) -> Any:
    if name.endswith("_cache"):
        return mb.StateTensorSpec(shape, dtype=types.fp16)
    return mb.TensorSpec(shape, dtype=types.int32 if name == "position" else types.fp16)


def _function(job: Job, window: Window, cache: str) -> tuple[Function, CoremlOps]:
    shapes = input_shapes(job.spec, window, cache)
    inputs = {name: _input(name, shape) for name, shape in shapes.items()}
    with Function(inputs, TARGET) as function:
        attention = AttentionWriter(job.spec, window, function.inputs, cache)
        ops = CoremlOps(WeightWriter(job.codes), attention, job.debug)
        logits = job.forward(ops)
        outputs = [
            mb.identity(x=part, name=f"logits_{number}") for number, part in enumerate(logits.parts)
        ]
        if cache == "io":
            for name, new in (("keys", attention.new_keys), ("values", attention.new_values)):
                outputs.append(mb.concat(values=new, axis=0, name=f"new_{name}"))
        function.set_outputs([*outputs, *ops.taps])
    return function, ops


def _share_constants(program: Program) -> None:
    """Let both functions name the same weights. A private pass: a test guards its name."""
    PASS_REGISTRY["common::const_deduplication"]._deduplicate_const_across_functions(program)
