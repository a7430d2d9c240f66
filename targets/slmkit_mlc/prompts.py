"""Prompts as MLC's engine makes them of ``mlc-chat-config.json``: its rules, applied here.

The rules are those of mlc-llm's ``Conversation.as_prompt`` (python/mlc_llm/protocol) and of
``CreatePrompt`` (cpp/json_ffi/conv_template.cc), which runs on phones.
mlc-llm itself is not needed.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer

from slmkit.backend.interface import Artifact
from slmkit.backend.prompts import Conversation, NotExecuted, Prompt
from slmkit_mlc.contract import CHAT_CONFIG
from slmkit_mlc.conversation import render_prompt


class MlcPrompts:
    """The written chat configuration, by MLC's rules; the library of its tokenizer."""

    limit = "MLC joins fixed texts around each message, and hands no tools on"
    clock = False

    def __init__(self, folder: Path, artifact: Artifact) -> None:
        params = folder / artifact.facts["params"]
        if not (params / "tokenizer.json").exists():
            raise NotExecuted("there is no tokenizer.json")
        self.runtime = f"MLC's conversation rules, tokenizers {version('tokenizers')}"
        config = json.loads((params / CHAT_CONFIG).read_text(encoding="utf-8"))
        self.template = config["conv_template"]
        self.library = Tokenizer.from_file(str(params / "tokenizer.json"))
        self.library.no_truncation()
        self.library.no_padding()

    def prompt(self, conversation: Conversation) -> Prompt:
        """The joined text; MLC encodes it without the tokens that a tokenizer adds."""
        text = render_prompt(self.template, conversation.messages)
        ids = self.library.encode(text, add_special_tokens=False).ids
        return Prompt(text, (*(self.template["system_prefix_token_ids"] or ()), *ids))
