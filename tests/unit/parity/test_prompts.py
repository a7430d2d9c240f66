"""Prompts of an artifact's runtime against the checkpoint's: planted differences are told."""

from __future__ import annotations

import pytest

from chat_templates import FAMILIES, with_template
from slmkit.backend.prompts import Prompt, RefusedPrompt
from slmkit.checkpoint.chat.conversations import expected_prompt
from slmkit.cli.tables.parity import prompts_note, prompts_table
from slmkit.parity.prompts import compare_with, failures_of_prompts, prompts_to_json


class Runtime:
    """The checkpoint's own prompts, with a planted difference."""

    runtime, clock = "a runtime 1.0", False

    def __init__(self, tokenizer, change, limit=""):
        self.tokenizer, self.change, self.limit = tokenizer, change, limit

    def prompt(self, conversation):
        return self.change(conversation, expected_prompt(self.tokenizer, conversation))


@pytest.fixture
def tokenizer(tmp_path):
    return with_template(tmp_path, FAMILIES["chatml"])


def second_start(conversation, prompt):
    return Prompt(f"<s>{prompt.text}", (1, *prompt.ids))


def other_tokens(conversation, prompt):
    return Prompt(prompt.text, (*prompt.ids[:-1], 7))


def no_system(conversation, prompt):
    if conversation.messages[0]["role"] == "system":
        return Prompt("[x]", (5,))
    return prompt


def refusal(conversation, prompt):
    raise RefusedPrompt("unknown filter")


@pytest.mark.parametrize(
    ("change", "limit", "verdict", "reason"),
    [
        (lambda conversation, prompt: prompt, "", "pass", None),
        (second_start, "", "FAIL", "another text, from token 0 on"),
        (second_start, "no form for it", "notice", "no form for it"),
        (other_tokens, "", "notice", "equal text, other tokens"),
        (no_system, "", "notice", "another text, from token 0 on"),
        (refusal, "", "FAIL", "unknown filter"),
    ],
)
def test_a_difference_fails_the_build_or_is_a_notice(tokenizer, change, limit, verdict, reason):
    found = compare_with("litert", Runtime(tokenizer, change, limit), tokenizer)
    assert found.verdict == verdict
    assert bool(failures_of_prompts([found])) == (verdict == "FAIL")
    if reason is not None:
        assert found.differences[0].reason.startswith(reason)


def test_a_notice_has_both_texts_and_its_brackets(tokenizer):
    found = compare_with("litert", Runtime(tokenizer, no_system), tokenizer)
    assert [each.conversation for each in found.differences] == ["system and user", "empty system"]
    assert "got '\\[x]'" in prompts_note([found])  # as rich prints it
    assert "You answer in one word." in prompts_note([found])
    assert prompts_to_json(found)["verdict"] == "notice"
    assert prompts_table([found]).row_count == 1
