"""States that the evaluator updates where they lie: the numbers are those of copies."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types

from artifacts import emitted, run
from coreml_artifacts import coreml_job
from slmkit_coreml.lowering.program import TARGET, write_package
from slmkit_coreml.verify.evaluator import Package
from slmkit_coreml.verify.states import States


@pytest.fixture
def written(monkeypatch):
    """Whether each update was written where the state lies."""
    found, right = [], States.write

    def write(self, op, done):
        value = right(self, op, done)
        found.append(value is not None)
        return value

    monkeypatch.setattr(States, "write", write)
    return found


def copies(self, op, done):
    return None


@pytest.mark.parametrize("options", [{}, {"layout": "gpu"}], ids=["ane", "gpu"])
@pytest.mark.parametrize("mode", ["float32", "float16"])
def test_a_model_gives_the_same_numbers(tiny, tmp_path, monkeypatch, written, options, mode):
    job = coreml_job(tiny("llama-biases"), tmp_path, **options)
    artifact = emitted(job, tmp_path / "out")
    got = run(tmp_path / "out", artifact, mode, job)
    assert written and all(written)
    monkeypatch.setattr(States, "write", copies)
    np.testing.assert_array_equal(got, run(tmp_path / "out", artifact, mode, job))


def package(folder, program):
    """A package of a program with one state."""
    write_package(program, folder / "model.mlpackage")
    return Package(folder / "model.mlpackage", "float32")


INPUTS = [mb.TensorSpec((1, 2), dtype=types.fp16), mb.StateTensorSpec((2, 2), dtype=types.fp16)]


def test_a_value_that_is_read_later_is_the_one_from_before(tmp_path, written):
    @mb.program(input_specs=INPUTS, opset_version=TARGET)
    def program(new, cache):
        before = mb.read_state(input=cache)
        row = mb.slice_by_size(x=before, begin=[0, 0], size=[1, 2])
        after = mb.slice_update(x=before, update=new, begin=[0, 0], end=[1, 2])
        mb.coreml_update_state(state=cache, value=after)
        return mb.add(x=row, y=new, name="sum")

    made = package(tmp_path, program)
    new = np.array([[1.0, 2.0]], np.float32)
    sums = [made.run("main", {"new": new * by})["sum"][0].tolist() for by in (1, 10, 100)]
    assert sums == [[1, 2], [11, 22], [110, 220]]
    assert written == [False] * 3  # the row is still read


def test_an_update_that_is_not_stored_changes_nothing(tmp_path, written):
    @mb.program(input_specs=INPUTS, opset_version=TARGET)
    def program(new, cache):
        before = mb.read_state(input=cache)
        after = mb.slice_update(x=before, update=new, begin=[0, 0], end=[1, 2])
        stored = mb.slice_update(x=before, update=new, begin=[1, 0], end=[2, 2])
        mb.coreml_update_state(state=cache, value=stored)
        return mb.add(x=after, y=np.float16(0), name="result")

    made = package(tmp_path, program)
    new = np.array([[1.0, 2.0]], np.float32)
    made.run("main", {"new": new})
    got = made.run("main", {"new": 5 * new})["result"]
    np.testing.assert_array_equal(got, [[5, 10], [1, 2]])


def test_what_a_run_returned_stays_as_it_was(tmp_path, written):
    @mb.program(input_specs=INPUTS, opset_version=TARGET)
    def program(new, cache):
        before = mb.read_state(input=cache)
        after = mb.slice_update(x=before, update=new, begin=[1, 0], end=[2, 2])
        kept = mb.coreml_update_state(state=cache, value=after)
        return mb.slice_by_size(x=kept, begin=[1, 0], size=[1, 2], name="row")

    made = package(tmp_path, program)
    new = np.array([[1.0, 2.0]], np.float32)
    first = made.run("main", {"new": new})["row"]
    second = made.run("main", {"new": 5 * new})["row"]
    assert first.tolist() == [[1, 2]] and second.tolist() == [[5, 10]]
    assert written == [True, True]
    made.reset()
    assert made.run("main", {"new": 0 * new})["row"].tolist() == [[0, 0]]
