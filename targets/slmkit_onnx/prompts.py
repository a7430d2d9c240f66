"""Prompts of onnxruntime-genai, and the tokenizer's files in a form that it can open."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slmkit.backend.interface import TokenFacts
from slmkit.backend.prompts import Conversation, NotExecuted, Prompt, RefusedPrompt
from slmkit.backend.tokenizer_files import added_within, ship_file

CONFIG = "genai_config.json"
SETTINGS, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
# onnxruntime-genai looks for these letters in a template before it hands tools on as they are; else
# it makes another, shorter form of them (0.18.0).
TOOLS_AS_THEY_ARE = "{#- tools | tojson -#}"


# What ``write_tokenizer_files`` writes
TOKENIZER_PATTERNS = ("*token*.json", "tokenizer.model", TEMPLATE, "generation_config.json")


def write_tokenizer_files(tokens: TokenFacts, folder: Path, vocabulary: int) -> None:
    """Copy the tokenizer's files; template and settings in forms that onnxruntime-genai reads.

    ``vocabulary``: rows of the model's embedding; tokens beyond them are left out.
    """
    for path in tokens.files:
        if path.name not in (SETTINGS, TEMPLATE):
            ship_file(path, folder, vocabulary)
    template = genai_template(tokens)
    if template is not None:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    settings = next((path for path in tokens.files if path.name == SETTINGS), None)
    values = json.loads(settings.read_text(encoding="utf-8")) if settings else {}
    added_within(values, vocabulary)
    text = json.dumps(genai_settings(values, tokens, template), indent=1, ensure_ascii=False)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def genai_template(tokens: TokenFacts) -> str | None:
    """The template in a form that onnxruntime-genai renders alike, else the checkpoint's own."""
    if tokens.chat_template is None:
        return None
    text = tokens.portable(indents=True) if tokens.portable else None
    text = tokens.chat_template if text is None else text
    return TOOLS_AS_THEY_ARE + text if "tools" in text else text


def genai_settings(
    values: Mapping[str, Any], tokens: TokenFacts, template: str | None
) -> dict[str, Any]:
    """tokenizer_config.json with one template as text (it cannot open a list), and the special
    tokens that only special_tokens_map.json has (it does not read that file)."""
    found = {key: value for key, value in values.items() if key != "chat_template"}
    if template is not None:
        found["chat_template"] = template
    for role, text in tokens.special.items():
        if found.get(role) is None:
            found[role] = text
    return found


class GenaiPrompts:
    """onnxruntime-genai's tokenizer, opened on an artifact's folder."""

    limit, clock = "", True

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime_genai

        self.runtime = f"onnxruntime-genai {version('onnxruntime-genai')}"
        try:
            self.tokenizer = onnxruntime_genai.Tokenizer(str(folder))
        except Exception as error:  # the library raises what its JSON reader throws
            raise RefusedPrompt(
                f"it cannot open this tokenizer{_kind(folder)}: {_first_line(error)}"
            ) from None

    def prompt(self, conversation: Conversation) -> Prompt:
        """The rendered template, and its tokens."""
        tools = [dict(each) for each in conversation.tools]
        try:
            text = self.tokenizer.apply_chat_template(
                json.dumps([dict(each) for each in conversation.messages], ensure_ascii=False),
                tools=json.dumps(tools, ensure_ascii=False) if tools else None,
                add_generation_prompt=True,
            )
            return Prompt(text, tuple(int(each) for each in self.tokenizer.encode(text)))
        except Exception as error:  # the template engine's errors are plain ones
            raise RefusedPrompt(_first_line(error)) from None


def _kind(folder: Path) -> str:
    """The kind of the tokenizer's model, such as Unigram, for a sentence."""
    try:
        values = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        return f" of the kind {values['model']['type']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def open_genai_prompts(folder: Path) -> GenaiPrompts:
    """onnxruntime-genai on a folder. Raises NotExecuted, RefusedPrompt."""
    if not (folder / CONFIG).exists():
        raise NotExecuted("the app makes its prompts itself: no form for onnxruntime-genai")
    try:
        return GenaiPrompts(folder)
    except ImportError:
        raise NotExecuted("onnxruntime-genai is not installed: pip install slmkit[genai]") from None
