"""What a path is opened as: a bundle, or a checkpoint in any of its forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slmkit.errors import SlmkitError
from slmkit.inference.load import is_bundle, load
from tiny_models import tiny_config, write_checkpoint


def test_a_gguf_file_answers_like_the_folder_that_it_was_made_of(tmp_path):
    gguf_files = pytest.importorskip("gguf_files", reason="the package gguf is not installed")
    folder = write_checkpoint(tmp_path / "tiny", tiny_config("llama"))
    gguf_files.write_checkpoint_as_gguf(folder, tmp_path / "tiny.gguf")
    ids = np.arange(5)
    expected, got = (load(path).runner.feed(ids) for path in (folder, tmp_path / "tiny.gguf"))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_path_is_a_bundle_unless_it_is_or_names_a_checkpoint(tmp_path):
    model = write_checkpoint(tmp_path / "tiny", tiny_config("llama"))
    assert not is_bundle(model)
    (model / "manifest.json").write_text("{}")
    assert is_bundle(model)
    (tmp_path / "empty").mkdir()
    assert is_bundle(tmp_path / "empty")
    assert not is_bundle(Path("some-org/some-model"))


def test_a_folder_that_is_nowhere_is_named(tmp_path):
    with pytest.raises(SlmkitError, match="nowhere is not a bundle"):
        load(tmp_path / "nowhere")
