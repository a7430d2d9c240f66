"""Prompts of LiteRT-LM, and the template that its bundle holds."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Artifact, TokenFacts
from slmkit.backend.prompts import Conversation, NotExecuted, Prompt, RefusedPrompt
from slmkit.errors import BackendError
from slmkit_litert.files import BUNDLE

# Prepended to the template: LiteRT-LM passes the content of a message as a list of parts, and the
# keys of the newest message in the order of the alphabet (0.18.1); templates expect text, and the
# order that an app writes.
TEXT_OF_PARTS = """{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set said = namespace(text='') -%}
{%- if message['content'] is string -%}
{%- set said.text = message['content'] -%}
{%- elif message['content'] -%}
{%- for part in message['content'] -%}
{%- set said.text = said.text ~ (part['text'] | default('')) -%}
{%- endfor -%}
{%- endif -%}
{%- if (message | length) == 2 -%}
{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': said.text}] -%}
{%- else -%}
{%- set flat.messages = flat.messages + [dict(message, content=said.text)] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def prompt_start(tokens: TokenFacts) -> int | None:
    """The token that LiteRT-LM puts before every prompt: bos, if both the tokenizer and the
    template begin with it; else none, and the template writes what it writes."""
    if tokens.bos is None or not tokens.adds_bos:
        return None
    begins = tokens.chat_template is None or (
        tokens.portable is not None and tokens.portable(without_bos=True) is not None
    )
    return tokens.bos if begins else None


def bundle_template(tokens: TokenFacts) -> str | None:
    """The template in a form that LiteRT-LM renders alike; None if the checkpoint has none.

    Without such a form it is the checkpoint's, and its special tokens are named: LiteRT-LM itself
    renders ``bos_token`` and ``eos_token`` as nothing (0.18.1).
    """
    if tokens.chat_template is None:
        return None
    started = prompt_start(tokens) is not None
    text = tokens.portable(without_bos=started) if tokens.portable else None
    if text is None:
        text = _named(tokens.special) + tokens.chat_template
    return TEXT_OF_PARTS + text


def _named(special: Mapping[str, str]) -> str:
    quoted = {
        name: text.replace("\\", "\\\\").replace("'", "\\'") for name, text in special.items()
    }
    return "".join(f"{{%- set {name} = '{text}' -%}}" for name, text in quoted.items())


class LitertPrompts:
    """LiteRT-LM on a bundle."""

    limit, clock = "", True

    def __init__(self, bundle: Path) -> None:
        import litert_lm

        self.runtime = f"litert-lm {version('litert-lm')}"
        self.library = litert_lm
        try:
            self.engine = litert_lm.Engine(
                str(bundle), backend=litert_lm.Backend.CPU(thread_count=1), cache_dir=":nocache"
            )
        except (RuntimeError, ValueError) as error:
            raise BackendError(
                f"LiteRT-LM cannot open {bundle.name}: {error}", "please report this"
            ) from None

    def prompt(self, conversation: Conversation) -> Prompt:
        """The start token, if the bundle has one, and the rendered template."""
        *before, last = conversation.messages
        tools = [_tool(self.library, each) for each in conversation.tools]
        try:
            talk = self.engine.create_conversation(
                messages=[dict(each) for each in before], tools=tools, automatic_tool_calling=False
            )
        except RuntimeError as error:
            raise RefusedPrompt(str(error)) from None
        text = talk.render_message_to_string(dict(last))
        talk.close()
        if not text:
            raise RefusedPrompt("its template engine fails, and the prompt is empty")
        ids, start = tuple(self.engine.tokenize(text)), self.engine.bos_token_id
        if start is None:
            return Prompt(text, ids)
        return Prompt((self.engine.detokenize([start]) or f"<token {start}>") + text, (start, *ids))


def _tool(library: Any, values: Mapping[str, Any]) -> Any:
    """A tool of LiteRT-LM with this description."""

    def describe(self: Any) -> dict[str, Any]:
        return dict(values)

    def execute(self: Any, param: Mapping[str, Any]) -> None:
        """Nothing calls it."""

    methods = {"get_tool_description": describe, "execute": execute}
    return type("Described", (library.Tool,), methods)()


def open_litert_prompts(folder: Path, artifact: Artifact) -> LitertPrompts:
    """LiteRT-LM on the artifact's bundle. Raises NotExecuted, BackendError."""
    if BUNDLE not in artifact.facts["bundles"]:
        raise NotExecuted(f"there is no {BUNDLE}: the app makes its prompts itself")
    try:
        return LitertPrompts(folder / BUNDLE)
    except ImportError:
        raise NotExecuted("litert-lm is not installed: pip install litert-lm") from None
