"""Prompts of an artifact's own runtime: the part of a backend that parity compares them by.

A backend may offer ``open_prompts(folder, artifact)``, which returns a ``PromptRuntime``. One that
does not leaves prompts to the app, which uses the checkpoint's own files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

from slmkit.backend.artifact import Artifact
from slmkit.checkpoint.chat.conversations import Conversation, Prompt

__all__ = [
    "Conversation",
    "NotExecuted",
    "Prompt",
    "PromptRuntime",
    "RefusedPrompt",
    "RuntimeOfPrompts",
]


class NotExecuted(Exception):
    """The runtime cannot be asked here; the message says why."""


class RefusedPrompt(Exception):
    """The runtime makes no prompt of a conversation, or of any; the message is its own."""


class PromptRuntime(Protocol):
    """An artifact, opened by its runtime as far as prompts need it."""

    runtime: str  # its name and version
    limit: str  # why some templates have no form in it; empty where it renders the template itself
    clock: bool  # whether a template that asks for the date is told today's

    def prompt(self, conversation: Conversation) -> Prompt:
        """The prompt that the runtime makes. Raises RefusedPrompt."""
        ...


@runtime_checkable
class RuntimeOfPrompts(Protocol):
    """A backend that can ask its runtime for prompts."""

    def open_prompts(self, folder: Path, artifact: Artifact) -> PromptRuntime:
        """Open a written artifact. Raises NotExecuted, or RefusedPrompt if it cannot be opened."""
        ...
