"""A .litertlm has the same bytes at every build, on every day."""

from __future__ import annotations

import pytest
from litert_lm_builder import litertlm_builder as builder

from litert_artifacts import litert_job
from slmkit_litert.files import BUNDLE
from slmkit_litert.litertlm import write_bundles
from slmkit_litert.reproducible import BUILT, WRITER


@pytest.fixture
def written(tiny, tmp_path):
    """Writes a bundle of a model's bytes: ``written("one", b"...")``."""
    job = litert_job(tiny("llama"), tmp_path)

    def write(name, model):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.tflite").write_bytes(model)
        write_bundles(job, tmp_path / name / "model.tflite", tmp_path / name, [BUNDLE])
        return (tmp_path / name / BUNDLE).read_bytes()

    return write


def test_two_builds_give_the_same_bytes(written):
    first = written("one", b"TFL3" * 100)
    assert first == written("two", b"TFL3" * 100) != written("three", b"TFL4" * 100)
    assert BUILT.encode() in first


def test_the_builder_still_adds_what_is_replaced_and_is_left_as_it_was(written):
    before = getattr(builder, WRITER)
    written("one", b"TFL3")
    assert getattr(builder, WRITER) is before
    assert {each.key for each in before([])} == {"uuid", "creation_timestamp"}
