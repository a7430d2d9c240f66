"""MLC's rules on the chat configuration that we write: equal prompts, or a notice."""

from __future__ import annotations

import json
import shutil
from datetime import datetime

import pytest

from chat_templates import FAMILIES, facts_with, template_of
from slmkit.backend.artifact import Artifact, SequenceState
from slmkit.checkpoint import tokenizer as tokenizers
from slmkit.parity.prompts import compare_with
from slmkit_mlc.conversation import DIFFERS, conversation
from slmkit_mlc.prompts import MlcPrompts

SYSTEM = {"system and user", "empty system"}
TOOLS = {"tools", "tool call"}
DIFFERENT = {  # conversations that MLC's form cannot say
    "chatml": SYSTEM | TOOLS,
    "gemma": set(),  # it refuses a system's words
    "granite": {"three turns"},  # its answers open otherwise where they stand
    "llama-2": SYSTEM,
    "llama-3": SYSTEM | TOOLS | {"three turns"},
    "mistral": SYSTEM,
    "phi-3": {"system and user"},
    "qwen-3": SYSTEM | TOOLS,
    "smollm": set(),
    "zephyr": SYSTEM,
}


def runtime_of(tmp_path, template):
    tokenizer, facts = facts_with(tmp_path, template)
    form, fidelity = conversation(facts)
    (tmp_path / "mlc-chat-config.json").write_text(json.dumps({"conv_template": form}))
    (tmp_path / "params").mkdir()
    for name in ("mlc-chat-config.json", "tokenizer.json"):
        shutil.copy(tmp_path / name, tmp_path / "params")
    state = SequenceState(256, (), 2, 16, ())
    artifact = Artifact("mlc", "", "", (), (), (), state, {"params": "params"})
    return tokenizer, MlcPrompts(tmp_path, artifact), fidelity


@pytest.mark.parametrize("family", FAMILIES)
def test_what_mlc_cannot_say_is_a_notice(tmp_path, family):
    tokenizer, runtime, _ = runtime_of(tmp_path, FAMILIES[family])
    found = compare_with("mlc", runtime, tokenizer)
    assert {each.conversation for each in found.differences} == DIFFERENT[family]
    assert not found.failures
    assert "one turn" in found.equal


def test_no_date_is_frozen_into_the_configuration(tmp_path, monkeypatch):
    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 4)

    template = template_of("date").replace("%Y", "%d %B %Y")
    _, facts = facts_with(tmp_path, template)
    first = conversation(facts)
    monkeypatch.setattr(tokenizers, "datetime", Later)
    _, facts = facts_with(tmp_path, template)
    assert conversation(facts) == first
    assert first[1] == DIFFERS
    assert "20" not in json.dumps(first[0])
