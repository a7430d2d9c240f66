"""onnxruntime-genai makes the checkpoint's prompts out of the tokenizer's files that we write."""

from __future__ import annotations

import json
import sys

import pytest

from chat_templates import CONSTRUCTS, FAMILIES, facts_with, template_of
from slmkit.backend.prompts import NotExecuted, RefusedPrompt
from slmkit.parity.prompts import compare_with
from slmkit_onnx.genai import write_config
from slmkit_onnx.prompts import open_genai_prompts, write_tokenizer_files
from tiny_tokenizers import KINDS

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai has no wheel for this machine")
CONFIG = {  # onnxruntime-genai reads it before the tokenizer
    "model": {
        "type": "llama",
        "vocab_size": 320,
        "context_length": 256,
        "bos_token_id": 1,
        "eos_token_id": [2],
        "pad_token_id": 0,
        "decoder": {"filename": "model.onnx"},
    },
    "search": {},
}


def opened(tmp_path, template, **settings):
    """The checkpoint's tokenizer, and onnxruntime-genai on the files that we write of it."""
    source, folder = tmp_path / "source", tmp_path / "folder"
    source.mkdir(exist_ok=True)
    folder.mkdir()
    tokenizer, facts = facts_with(source, template, **settings)
    write_config(CONFIG, folder)
    write_tokenizer_files(facts, folder, 10**6)
    return tokenizer, open_genai_prompts(folder)


@pytest.mark.parametrize("name", [*FAMILIES, *CONSTRUCTS])
def test_every_family_s_prompts_are_equal(tmp_path, name):
    template = FAMILIES.get(name) or template_of(name)
    tokenizer, runtime = opened(tmp_path, template)
    found = compare_with("ort", runtime, tokenizer)
    assert found.verdict == "pass", found.notices
    assert "one turn" in found.equal


def test_a_list_of_templates_can_be_opened(tmp_path):
    named = [
        {"name": "default", "template": FAMILIES["chatml"]},
        {"name": "rag", "template": "no"},
    ]
    tokenizer, runtime = opened(tmp_path, named)
    assert compare_with("ort", runtime, tokenizer).verdict == "pass"


def test_special_tokens_that_another_file_has_are_found(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "special_tokens_map.json").write_text('{"bos_token": {"content": "<s>"}}')
    tokenizer, runtime = opened(tmp_path, FAMILIES["gemma"], bos_token=None)
    assert tokenizer.special["bos_token"] == "<s>"
    assert compare_with("ort", runtime, tokenizer).verdict == "pass"
    settings = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
    assert settings["bos_token"] == "<s>"


def test_a_normalizer_that_it_lacks_is_a_notice(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    facts_with(source, None)
    path = source / "tokenizer.json"
    values = {**json.loads(path.read_text()), "normalizer": {"type": "NFC"}}
    path.write_text(json.dumps(values))
    tokenizer, runtime = opened(tmp_path, FAMILIES["chatml"])
    found = compare_with("ort", runtime, tokenizer)
    assert [each.conversation for each in found.differences] == ["rare characters"]
    assert found.verdict == "notice"
    assert found.differences[0].reason.startswith("equal text, other tokens")


def test_a_tokenizer_that_it_cannot_open_is_named_by_its_kind(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    KINDS["unigram"](source)
    with pytest.raises(RefusedPrompt, match="cannot open this tokenizer of the kind Unigram"):
        opened(tmp_path, FAMILIES["chatml"])


def test_without_its_package_or_its_form_nothing_is_claimed(tmp_path, monkeypatch):
    with pytest.raises(NotExecuted, match="no form for onnxruntime-genai"):
        open_genai_prompts(tmp_path)
    write_config(CONFIG, tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    with pytest.raises(NotExecuted, match="pip install"):
        open_genai_prompts(tmp_path)
