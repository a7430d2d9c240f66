"""Peers' models: told apart by their files, refused in a sentence, and timed where installed."""

from __future__ import annotations

import numpy as np
import pytest

from peer_models import write_gguf
from slmkit.devices import peers
from slmkit.devices.peers import CONFIG, GENAI, LLAMA_CPP, open_peer, peer_kind
from slmkit.errors import BackendError, MissingPackageError, UsageError


@pytest.fixture
def everything_installed(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda module: object())


def test_files_tell_the_runtime(tmp_path, everything_installed):
    (tmp_path / "model.bin").write_bytes(b"GGUF and more")
    assert peer_kind(tmp_path / "model.bin") is LLAMA_CPP
    (tmp_path / CONFIG).write_text("{}")
    assert peer_kind(tmp_path) is GENAI


@pytest.mark.parametrize("content", [b"", b"GGU", b"\x80PyTorch"])
def test_anything_else_is_refused(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    for path in (tmp_path / "model.gguf", tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"no model of llama\.cpp or onnxruntime-genai"):
            peer_kind(path)


def test_a_runtime_that_is_missing_is_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda module: None)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(MissingPackageError, match=r"llama\.cpp, which is not installed") as caught:
        peer_kind(tmp_path / "model.gguf")
    assert caught.value.hint == "pip install xllamacpp"


def test_a_damaged_folder_is_refused_in_the_runtime_s_words(tmp_path):
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(BackendError, match="onnxruntime-genai cannot load"):
        open_peer(tmp_path, 1, 64)


def test_llama_cpp_answers_the_sample_model_as_many_tokens_as_asked(tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed: pip install xllamacpp")
    pytest.importorskip("gguf", reason="gguf is not installed: pip install gguf")
    peer = open_peer(write_gguf(tmp_path / "home.gguf"), 1, 256)
    assert "xllamacpp" in peer.runtime
    found = peer.answer(np.arange(300, 340), 7)
    assert (found.prompt, found.decoded) == (40, 7)
    assert found.prefill > 0 < found.decode
