"""MLC's form of a chat template, and the rules by which MLC makes prompts of it.

MLC builds a prompt by concatenation: a system text, then for each message the role's prefix, the
content and a separator. These strings are found by rendering the checkpoint's template; the prompts
that MLC would build from them are compared with the template's over longer conversations. The
report says where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from slmkit.backend.interface import Chat, TokenFacts
from slmkit.errors import SlmkitError

EXACT, NO_SYSTEM, DIFFERS = "exact", "no system", "differs"  # fidelity of MLC's form
SYSTEM_PLACEHOLDER = "{system_message}"
SYSTEM, USER, ANSWER = "<<the system>>", "<<a question>>", "<<an answer>>"  # markers to render
ROLE_TEMPLATES = {
    "user": "{user_message}",
    "assistant": "{assistant_message}",
    "tool": "{tool_message}",
}
Messages = Sequence[Mapping[str, str]]


def conversation(tokens: TokenFacts) -> tuple[dict[str, Any], str]:
    """MLC's form of the chat template (``conv_template``), and its fidelity.

    Fidelity: EXACT; NO_SYSTEM if prompts without a system message are exact and one with it would
    lose the message; DIFFERS if MLC's form cannot express the template.
    """
    plain = _conv_template(
        tokens,
        SYSTEM_PLACEHOLDER,
        system_message="",
        roles={"user": "", "assistant": ""},
        seps=[""],
    )
    if tokens.chat is None:
        return plain, EXACT
    if tokens.dated:  # the day of the build would stand in it for good
        return plain, DIFFERS
    try:
        template = _derive_template(tokens, tokens.chat)
        exact = all(
            render_prompt(template, messages) == tokens.chat(messages, True)
            for messages in _test_conversations(template)
        )
    except (ValueError, SlmkitError):  # the checkpoint's template has another structure
        return plain, DIFFERS
    if not exact:
        return template, DIFFERS
    return template, EXACT if SYSTEM_PLACEHOLDER in template["system_template"] else NO_SYSTEM


def _derive_template(tokens: TokenFacts, render: Chat) -> dict[str, Any]:
    """Role prefixes and separators: the strings around known contents in rendered prompts.

    Raises ValueError or SlmkitError if the checkpoint's template has another structure.
    """
    user, answer = {"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}
    head, tail = _pieces(render([user], True), USER)
    first, between, after_answer, last = _pieces(
        render([user, answer, user], True), USER, ANSWER, USER
    )
    if (first, last) != (head, tail):
        raise ValueError("a later message changes what stands before or after an earlier one")
    # An answer's opening may end otherwise where the model is to write it, and where it stands.
    opening = _common_start(between, tail)
    content_sep, empty_sep = between[len(opening) :], tail[len(opening) :]
    user_prefix = _common_end(head, after_answer)
    if not user_prefix.endswith(content_sep):  # of answers that stand, none can be told
        opening, content_sep, empty_sep = tail, "", ""
    for shorter in (
        _common_end(user_prefix, *_heads_with_system(render, user)),
        after_answer.removeprefix(_end(render, [user, answer], ANSWER)),
    ):
        if shorter and shorter.endswith(content_sep) and user_prefix.endswith(shorter):
            user_prefix = shorter
    end_of_question = _end(render, [user], USER)
    if not opening.startswith(end_of_question):
        end_of_question = opening
    start = head.removesuffix(user_prefix)
    system_template, system_message = _system_template(render, user, user_prefix, start)
    template = _conv_template(
        tokens,
        system_template,
        system_message,
        {
            "user": user_prefix.removesuffix(content_sep),
            "assistant": opening.removeprefix(end_of_question),
        },
        [end_of_question, after_answer.removesuffix(user_prefix)],
    )
    return {**template, "role_content_sep": content_sep, "role_empty_sep": empty_sep}


def _common_start(*texts: str) -> str:
    """The longest text that all of some texts begin with."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in alike)


def _common_end(*texts: str) -> str:
    """The longest text that all of some texts end with."""
    return _common_start(*(each[::-1] for each in texts))[::-1]


def _pieces(text: str, *markers: str) -> list[str]:
    """The texts before, between and after markers. Raises ValueError if one is missing."""
    found = []
    for marker in markers:
        before, marker, text = text.partition(marker)
        if not marker:
            raise ValueError("the template changes a message's content")
        found.append(before)
    return [*found, text]


def _heads_with_system(render: Chat, user: Mapping[str, str]) -> list[str]:
    """The text before the first question behind a system's words; none if they are refused."""
    try:
        return [render([{"role": "system", "content": SYSTEM}, user], True).partition(USER)[0]]
    except SlmkitError:
        return []


def _end(render: Chat, messages: Messages, marker: str) -> str:
    """The text after the last message where no answer is asked for; all there is, if that is
    refused."""
    try:
        return render(messages, False).partition(marker)[2]
    except SlmkitError:
        return ""


def _system_template(
    render: Chat, user: Mapping[str, str], user_prefix: str, start: str
) -> tuple[str, str]:
    """The start of a conversation with SYSTEM_PLACEHOLDER, and the template's default system text.

    ``start``: the rendered text before the first user prefix, without a system message. It is
    returned without a placeholder if the template refuses system messages, or if it cannot result
    from replacing the placeholder.
    """
    try:
        prompt = render([{"role": "system", "content": SYSTEM}, user], True)
    except SlmkitError:  # the template refuses system messages
        return start, ""
    system_start = prompt.partition(USER)[0].removesuffix(user_prefix)
    before, marker, after = system_start.partition(SYSTEM)
    default_length = len(start) - len(before) - len(after)
    if marker and default_length >= 0 and start.startswith(before) and start.endswith(after):
        default_message = start[len(before) : len(before) + default_length]
        return before + SYSTEM_PLACEHOLDER + after, default_message
    return start, ""


def _conv_template(
    tokens: TokenFacts,
    system_template: str,
    system_message: str,
    roles: dict[str, str],
    seps: list[str],
) -> dict[str, Any]:
    """The fields of mlc-llm's ``Conversation``."""
    return {
        "name": "slmkit",
        "system_template": system_template,
        "system_message": system_message,
        "system_prefix_token_ids": None,
        "add_role_after_system_message": True,
        "roles": {**roles, "tool": roles["user"]},
        "role_templates": ROLE_TEMPLATES,
        "messages": [],
        "seps": seps,
        "role_content_sep": "",
        "role_empty_sep": "",
        "stop_str": [],
        "stop_token_ids": list(tokens.stop),
        "function_string": "",
        "use_function_calling": False,
    }


def render_prompt(template: Mapping[str, Any], messages: Messages) -> str:
    """The prompt that MLC builds from messages (mlc-llm's ``Conversation.as_prompt``)."""
    system_message, turns = template["system_message"], list(messages)
    if turns and turns[0]["role"] == "system":
        system_message = turns.pop(0)["content"]
    prompt: str = template["system_template"].replace(SYSTEM_PLACEHOLDER, system_message)
    seps = template["seps"] * (3 - len(template["seps"]))  # one separator serves both roles
    roles = template["roles"]
    for message in turns:
        sep = seps[message["role"] == "assistant"]
        content = template["role_content_sep"] + message["content"]
        prompt += roles[message["role"]] + content + sep
    prompt += roles["assistant"] + template["role_empty_sep"]
    return prompt


def _test_conversations(template: Mapping[str, Any]) -> list[Messages]:
    """Conversations of one, three and five turns, and one with a system message if it has a place.

    The prompts of MLC's form and of the checkpoint's template are compared on these.
    """
    user = [{"role": "user", "content": text} for text in ("Hello!", "And then?", "Thanks.")]
    answer = [{"role": "assistant", "content": text} for text in ("Hi.", "Nothing.")]
    turns = [user[0], answer[0], user[1], answer[1], user[2]]
    conversations: list[Messages] = [turns[:1], turns[:3], turns]
    if SYSTEM_PLACEHOLDER in template["system_template"]:
        conversations.append([{"role": "system", "content": "Be brief."}, *turns[:3]])
    return conversations
