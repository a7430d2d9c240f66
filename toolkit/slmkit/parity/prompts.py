"""Prompt parity: prompts of an artifact's own runtime against the checkpoint's template and tokens.

Golden conversations are compared id by id, in a worker process.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from slmkit.backend.artifact import STRICT, Artifact, artifact_from_json, artifact_to_json
from slmkit.backend.prompts import NotExecuted, PromptRuntime, RefusedPrompt, RuntimeOfPrompts
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.chat.conversations import (
    Conversation,
    Prompt,
    expected_prompt,
    golden_conversations,
)
from slmkit.checkpoint.tokenizer import BUILD_DAY, Tokenizer
from slmkit.system import subprocess_worker
from slmkit.system.progress import Progress

BASIC = "one turn"  # the conversation that every app has: a runtime must get it right
OWN = "the app itself, with the bundle's tokenizer"
NO_TEMPLATE = "the checkpoint has no chat template"


@dataclass(frozen=True, config=STRICT)
class PromptDifference:
    """A conversation whose prompt is another one in the artifact's runtime."""

    conversation: str
    expected: str  # the text of the checkpoint's template
    got: str  # of the runtime; empty if it makes none
    reason: str  # in words


@dataclass(frozen=True, config=STRICT)
class PromptComparison:
    """The prompts of one artifact's runtime, against the checkpoint's."""

    artifact: str
    runtime: str  # name and version, or why it was not asked
    executed: bool
    equal: tuple[str, ...] = ()  # conversations with equal ids
    differences: tuple[PromptDifference, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.failures:
            return "FAIL"
        if not self.executed:
            return "not executed"
        return "notice" if self.differences else "pass"

    @property
    def notices(self) -> tuple[str, ...]:
        """A sentence for each difference."""
        return tuple(
            f"{self.artifact}: the prompt of the conversation '{each.conversation}' is another one "
            f"in {self.runtime}: {each.reason}; expected {each.expected!r}, got {each.got!r}"
            for each in self.differences
        )


_ADAPTER = TypeAdapter(PromptComparison)


def prompts_to_json(found: PromptComparison) -> dict[str, Any]:
    """The comparison as JSON values, with its verdict."""
    return {**_ADAPTER.dump_python(found, mode="json"), "verdict": found.verdict}


def compare_prompts(
    folder: Path,
    artifacts: Iterable[Artifact],
    tokenizer: Path,
    chat_template: str | None,
    progress: Progress,
) -> tuple[PromptComparison, ...]:
    """Ask each artifact's runtime, in a worker of its own. ``tokenizer``: the bundle's folder."""
    found = []
    for artifact in artifacts:
        progress.stage(f"prompts of {artifact.name}", 1)
        payload = {
            "artifact": artifact_to_json(artifact),
            "folder": str(folder / artifact.name),
            "tokenizer": str(tokenizer),
            "chat_template": chat_template,
        }
        values = subprocess_worker.call(
            "slmkit.parity.prompts:prompts_job",
            payload,
            lambda done, total: None,
            f"makes prompts with the runtime of {artifact.name}",
        )
        found.append(_ADAPTER.validate_python(values))
        progress.advance(1)
    return tuple(found)


def failures_of_prompts(found: Iterable[PromptComparison]) -> list[str]:
    """Sentences of all failures."""
    return [why for each in found for why in each.failures]


def prompts_job(payload: dict[str, Any], report: subprocess_worker.Report) -> dict[str, Any]:
    """In the worker: open the artifact's runtime, and compare its prompts."""
    artifact = artifact_from_json(payload["artifact"])
    tokenizer = Tokenizer(Path(payload["tokenizer"]), payload["chat_template"])
    found = compare_artifact(Path(payload["folder"]), artifact, tokenizer)
    values: dict[str, Any] = _ADAPTER.dump_python(found, mode="json")
    return values


def compare_artifact(folder: Path, artifact: Artifact, tokenizer: Tokenizer) -> PromptComparison:
    """The prompts of an artifact's runtime against those of the checkpoint's tokenizer."""
    name, backend = artifact.name, find_backend(artifact.name)
    if tokenizer.template is None:
        return PromptComparison(name, NO_TEMPLATE, executed=False)
    if not isinstance(backend, RuntimeOfPrompts):
        return compare_with(name, _Own(tokenizer), tokenizer)
    try:
        return compare_with(name, backend.open_prompts(folder, artifact), tokenizer)
    except NotExecuted as why:
        return PromptComparison(name, str(why), executed=False)
    except RefusedPrompt as why:
        expected = expected_prompt(tokenizer.on(BUILD_DAY), golden_conversations(tokenizer)[0])
        lost = PromptDifference("every one", expected.text, "", str(why))
        return PromptComparison(name, "its runtime", True, differences=(lost,))


def compare_with(name: str, runtime: PromptRuntime, tokenizer: Tokenizer) -> PromptComparison:
    """Every golden conversation of the template in an open runtime."""
    day: datetime | None = None if runtime.clock else BUILD_DAY
    tokenizer = tokenizer.on(day)
    equal, differences, failures = [], [], []
    for conversation in golden_conversations(tokenizer):
        expected, got, reason = _compared(runtime, tokenizer, conversation)
        if not reason:
            equal.append(conversation.name)
            continue
        text = got.text if got else ""
        differences.append(PromptDifference(conversation.name, expected.text, text, reason))
        if conversation.name == BASIC and not runtime.limit and text != expected.text:
            failures.append(
                f"{name}: {runtime.runtime} makes another prompt of a user's message ({reason}): "
                f"{text!r} in place of {expected.text!r}"
            )
    return PromptComparison(
        name, runtime.runtime, True, tuple(equal), tuple(differences), tuple(failures)
    )


def _compared(
    runtime: PromptRuntime, tokenizer: Tokenizer, conversation: Conversation
) -> tuple[Prompt, Prompt | None, str]:
    """Both prompts of a conversation, and how they differ, in words; empty if they do not."""
    expected = expected_prompt(tokenizer, conversation)
    try:
        got = runtime.prompt(conversation)
    except RefusedPrompt as why:
        return expected, None, str(why)
    if got.ids == expected.ids:
        return expected, got, ""
    at = next(
        (at for at, pair in enumerate(zip(got.ids, expected.ids)) if pair[0] != pair[1]),  # noqa: B905
        min(len(got.ids), len(expected.ids)),
    )
    if got.text == expected.text:
        ids = f"{list(got.ids[at : at + 4])} in place of {list(expected.ids[at : at + 4])}"
        return expected, got, f"equal text, other tokens from token {at} on: {ids}"
    return expected, got, runtime.limit or f"another text, from token {at} on"


class _Own:
    """The checkpoint's own files, for artifacts whose prompts the app makes itself."""

    runtime, limit, clock = OWN, "", False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer.on(BUILD_DAY)

    def prompt(self, conversation: Conversation) -> Prompt:
        """The prompt of the tokenizer itself."""
        return expected_prompt(self.tokenizer, conversation)
