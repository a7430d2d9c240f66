"""The Neural Engine's rules: each can be broken, and our packages break none of the errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import Function, Program, types

from artifacts import emitted
from coreml_artifacts import coreml_job
from slmkit.errors import BackendError
from slmkit_coreml.lowering.program import TARGET, write_package
from slmkit_coreml.verify.residency import RULES, inspect, violations


def package(tmp_path: Path, body, inputs=None) -> Path:
    """A package of one function, ``main``, with one float16 input x of [1, 64, 1, 32]."""
    program = Program()
    shapes = inputs or {"x": mb.TensorSpec((1, 64, 1, 32), dtype=types.fp16)}
    with Function(shapes, TARGET) as function:
        function.set_outputs([body(function.inputs)])
    program.add_function("main", function)
    path = tmp_path / "model.mlpackage"
    write_package(program, path)
    return path


def broken(path: Path) -> set[str]:
    (report,) = inspect(path).values()
    return {found["rule"] for found in report["findings"]}


def square(rows: int = 64) -> np.ndarray:
    return np.ones((rows, 64), np.float16)


def read_twice(given):
    first = mb.read_state(input=given["cache"])
    return mb.add(x=mb.read_state(input=given["cache"]), y=first)


def palette_under_scale(given):
    indices = np.zeros((64, 64, 1, 1), np.uint8).astype(types.nptype_from_builtin(types.uint4))
    table = np.ones((1, 1, 1, 1, 16, 1), np.int8)
    data = mb.constexpr_lut_to_dense(indices=indices, lut=table)
    scale = np.ones((64, 1, 1, 1), np.float16)
    weight = mb.constexpr_blockwise_shift_scale(data=data, scale=scale)
    return mb.conv(x=given["x"], weight=weight, pad_type="valid")


def computed_begin(given):
    begin = mb.cast(x=mb.reduce_sum(x=given["x"], axes=[1, 2], keep_dims=False), dtype="int32")
    at = mb.squeeze(x=mb.slice_by_size(x=begin, begin=[0, 0], size=[1, 4]), axes=[0])
    return mb.slice_by_size(x=given["x"], begin=at, size=[1, 1, 1, 1])


STATE = {
    "x": mb.TensorSpec((1, 64, 1, 32), dtype=types.fp16),
    "cache": mb.StateTensorSpec((1, 64, 1, 32), dtype=types.fp16),
}
SHORT = {**STATE, "cache": mb.StateTensorSpec((1, 64, 1, 20), dtype=types.fp16)}
CASES = {
    "not-finite": (lambda given: mb.add(x=given["x"], y=np.float16(-np.inf)), None),
    "float32": (lambda given: mb.cast(x=given["x"], dtype="fp32"), None),
    "operation": (
        lambda given: mb.gather(x=given["x"], indices=np.array([3, 1], np.int32), axis=1),
        None,
    ),
    "linear": (
        lambda given: mb.linear(x=mb.reshape(x=given["x"], shape=[1, 32, 64]), weight=square()),
        None,
    ),
    "rank-5": (lambda given: mb.reshape(x=given["x"], shape=[1, 8, 8, 1, 32]), None),
    "dimension": (
        lambda given: mb.conv(
            x=given["x"], weight=square(16385).reshape(-1, 64, 1, 1), pad_type="valid"
        ),
        None,
    ),
    "state-read-twice": (read_twice, STATE),
    "state-alignment": (lambda given: mb.read_state(input=given["cache"]), SHORT),
    "palette-under-scale": (palette_under_scale, None),
    "runtime-index": (computed_begin, None),
    "border-alignment": (
        lambda given: mb.slice_by_size(x=given["x"], begin=[0, 0, 0, 0], size=[1, 64, 1, 5]),
        None,
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_finds_what_breaks_it(tmp_path, rule):
    body, inputs = CASES[rule]
    assert rule in broken(package(tmp_path, body, inputs))


def test_a_plain_convolution_breaks_no_rule(tmp_path):
    weight = square().reshape(64, 64, 1, 1)
    path = package(tmp_path, lambda given: mb.conv(x=given["x"], weight=weight, pad_type="valid"))
    assert broken(path) == set()
    (report,) = inspect(path).values()
    assert report["predicted"] == 1.0


def test_functions_are_told_in_one_order(tmp_path):
    names = [f"f{number}" for number in range(12)]
    program = Program()
    for name in reversed(names):
        with Function({"x": mb.TensorSpec((1, 64, 1, 32), dtype=types.fp16)}, TARGET) as function:
            function.set_outputs([mb.relu(x=function.inputs["x"])])
        program.add_function(name, function)
    program.default_function_name = names[0]
    write_package(program, tmp_path / "model.mlpackage")
    assert list(inspect(tmp_path / "model.mlpackage")) == sorted(names)


def test_every_rule_names_its_source():
    assert all(rule.source and rule.reason for rule in RULES.values())
    assert {rule.level for rule in RULES.values()} == {"error", "warning", "note"}


@pytest.mark.parametrize("whole", [True, False])
def test_our_packages_break_no_rule_but_that_of_groups(tiny, tmp_path, whole):
    """Nothing but look-up, masks and slots is left to the CPU, and that before all else."""
    job = coreml_job(tiny("qwen3"), tmp_path, self_contained=whole)
    artifact = emitted(job, tmp_path / "coreml")
    for report in artifact.facts["residency"].values():
        early = [each for each in report["findings"] if each["rule"] == "prologue"]
        outside = sum(each["count"] for each in early)
        assert report["predicted"] == round(1 - outside / report["operations"], 4)
        assert outside == (13 if whole else 0)
        named = {found["rule"] for found in report["findings"] if found["level"] != "note"}
        assert named == {"group-scales"}


def test_a_recipe_that_requires_the_neural_engine_takes_no_groups(tiny, tmp_path):
    grouped = coreml_job(tiny("llama"), tmp_path)
    required = dataclasses.replace(grouped, options={"require": "ane"})
    with pytest.raises(BackendError, match="group-scales"):
        emitted(required, tmp_path / "grouped")
    channels = coreml_job(tiny("llama"), tmp_path, "int4-per-channel")
    artifact = emitted(
        dataclasses.replace(channels, options={"require": "ane"}), tmp_path / "channels"
    )
    assert violations(artifact.facts["residency"]) == []


@pytest.mark.parametrize("form", [{}, {"kv_cache": "io"}], ids=str)
def test_a_self_contained_package_does_nothing_else_than_prepare_on_the_cpu(tiny, tmp_path, form):
    job = coreml_job(tiny("llama"), tmp_path, "int4-per-channel", require="ane", **form)
    assert violations(emitted(job, tmp_path / "coreml").facts["residency"]) == []


def test_an_index_that_the_neural_engine_computes_is_no_preparation(tmp_path):
    """It follows from an input of floats."""
    assert "runtime-index" in broken(package(tmp_path, computed_begin))


def test_the_file_limit_is_about_the_whole_package(tmp_path, monkeypatch):
    monkeypatch.setattr("slmkit_coreml.verify.residency.FILE_LIMIT", 1000)
    weight = np.random.default_rng(0).standard_normal((64, 64, 1, 1)).astype(np.float16)
    path = package(tmp_path, lambda given: mb.conv(x=given["x"], weight=weight, pad_type="valid"))
    assert "file-size" in broken(path)
