"""Golden conversations, whose prompts every artifact's runtime and the checkpoint's template make.

Each is rendered with the opening of the answer, as an app does before the model writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError

Values = Mapping[str, Any]
TOOL: Values = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Turn a light on or off.",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"type": "string", "description": "such as küche"},
                "on": {"type": "boolean"},
            },
            "required": ["room"],
        },
    },
}


@dataclass(frozen=True)
class Conversation:
    """Messages and tools, as transformers takes them."""

    name: str
    messages: tuple[Values, ...]
    tools: tuple[Values, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A prompt: its text, and the ids of the tokens that the model reads."""

    text: str
    ids: tuple[int, ...]


def _said(role: str, content: str) -> Values:
    return {"role": role, "content": content}


_CALL: Values = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "type": "function",
            "function": {"name": "set_light", "arguments": {"room": "küche", "on": False}},
        }
    ],
}
_ASKED = _said("user", "Turn off the light in the kitchen.")
GOLDEN = (
    Conversation("one turn", (_said("user", "What is the capital of France?"),)),
    Conversation(
        "system and user",
        (_said("system", "You answer in one word."), _said("user", "Is water wet?")),
    ),
    Conversation(
        "three turns",
        (
            _said("user", "Hello!"),
            _said("assistant", "Hi. How can I help?"),
            _said("user", "Tell me a joke."),
            _said("assistant", "I know none.\n\nShall I look for one?"),
            _said("user", "No, thanks."),
        ),
    ),
    Conversation("empty system", (_said("system", ""), _said("user", "Good morning."))),
    Conversation("unicode", (_said("user", 'Grüße an 世界 🚀, "ça va"?\n\t1 < 2 & {{ x }}'),)),
    # Normalizers join letter and accent, and make spaces of other spaces: not every runtime does.
    Conversation("rare characters", (_said("user", "cafe\u0301\u00a0au lait, ﬁne"),)),
    Conversation("tools", (_ASKED,), (TOOL,)),
    Conversation(
        "tool call",
        (_ASKED, _CALL, {"role": "tool", "name": "set_light", "content": "done"}),
        (TOOL,),
    ),
)


def rendered(tokenizer: Tokenizer, conversation: Conversation) -> str | None:
    """The template's text of a conversation; None if it refuses it."""
    try:
        return tokenizer.chat(conversation.messages, True, list(conversation.tools) or None)
    except CheckpointError:
        return None


def golden_conversations(tokenizer: Tokenizer) -> list[Conversation]:
    """Those that the template does not refuse; with tools only where it writes them.

    Without a template a conversation has no prompt, and there are none.
    """
    if tokenizer.template is None:
        return []
    found = []
    for conversation in GOLDEN:
        text = rendered(tokenizer, conversation)
        plain = Conversation("", conversation.messages)
        if text is not None and (not conversation.tools or text != rendered(tokenizer, plain)):
            found.append(conversation)
    return found


def expected_prompt(tokenizer: Tokenizer, conversation: Conversation) -> Prompt:
    """The prompt of the checkpoint's own template and tokenizer. Raises CheckpointError."""
    text = tokenizer.chat(conversation.messages, True, list(conversation.tools) or None)
    return Prompt(text, tuple(tokenizer.encode(text, special=False)))
