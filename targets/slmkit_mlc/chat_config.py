"""``mlc-chat-config.json``: sizes, tokenizer, and the chat template in MLC's own form.

MLC builds a prompt by concatenation: a system text, then for each message the role's prefix, the
content and a separator. These strings are found by rendering the checkpoint's template; the prompts
that MLC would build from them are compared with the template's over longer conversations. The
report says where they differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Chat, Job, TokenFacts
from slmkit.errors import SlmkitError
from slmkit_mlc.contract import contract
from slmkit_mlc.lowering.definition import Definition

VERSION = "0.1.0"
EXACT, NO_SYSTEM, DIFFERS = "exact", "no system", "differs"  # fidelity of MLC's form
SYSTEM_PLACEHOLDER = "{system_message}"
SYSTEM, USER, ANSWER = "<<the system>>", "<<a question>>", "<<an answer>>"  # markers to render
ROLE_TEMPLATES = {
    "user": "{user_message}",
    "assistant": "{assistant_message}",
    "tool": "{tool_message}",
}
Messages = Sequence[Mapping[str, str]]


def chat_config(job: Job, definition: Definition, quantization: str) -> tuple[dict[str, Any], str]:
    """The content of the file, and the fidelity of its chat template (see ``conversation``)."""
    spec, limits, tokens = job.spec, definition.limits, job.tokens
    author = tokens.generation
    sizes = {
        "vocab_size": spec.vocabulary,
        "context_window_size": limits.context,
        "sliding_window_size": -1,
        "prefill_chunk_size": limits.prefill,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
    }
    template, fidelity = conversation(tokens)
    names = contract()["tokenizer_files"]
    values = {
        "version": VERSION,
        "model_type": spec.model_type,
        "quantization": quantization,
        "model_config": {
            **sizes,
            "max_batch_size": limits.batch,
            "hidden_size": spec.width,
            "num_hidden_layers": spec.layers,
            "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.kv_heads,
            "head_dim": spec.head_width,
            "intermediate_size": spec.feed_forward,
            "rms_norm_eps": spec.eps,
            "tie_word_embeddings": spec.tied,
        },
        **sizes,
        "attention_sink_size": -1,
        "active_vocab_size": tokens.active or spec.vocabulary,
        "temperature": author.temperature if author.do_sample else 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": author.repetition_penalty,
        "top_p": author.top_p,
        "tokenizer_files": [path.name for path in tokens.files if path.name in names],
        "tokenizer_info": tokenizer_info(tokens),
        "conv_template": template,
        "pad_token_id": tokens.pad or 0,
        "bos_token_id": tokens.bos,
        "eos_token_id": list(tokens.stop),
        "model_task": "chat",
    }
    return values, fidelity


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
    try:
        template = _derive_template(tokens, tokens.chat)
        exact = all(
            render_prompt(template, messages) == tokens.chat(messages, True)
            for messages in _test_conversations(template)
        )
    except (ValueError, SlmkitError):  # the checkpoint's template has another structure
        return plain, DIFFERS
    if not exact or tokens.dated:
        return template, DIFFERS
    return template, EXACT if SYSTEM_PLACEHOLDER in template["system_template"] else NO_SYSTEM


def _derive_template(tokens: TokenFacts, render: Chat) -> dict[str, Any]:
    """Role prefixes and separators: the strings around known contents in rendered prompts.

    Raises ValueError or SlmkitError if the checkpoint's template has another structure.
    """
    user, answer = {"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}
    question, prompt = render([user], False), render([user], True)
    three_turns = render([user, answer, user], False)
    between, after_answer = three_turns.partition(USER)[2].split(ANSWER)
    assistant_prefix = prompt.removeprefix(question)
    end_of_answer = render([user, answer], False).partition(ANSWER)[2]
    user_prefix = after_answer.partition(USER)[0].removeprefix(end_of_answer)
    start = question.partition(USER)[0].removesuffix(user_prefix)
    system_template, system_message = _system_template(render, user, user_prefix, start)
    roles = {"user": user_prefix, "assistant": assistant_prefix}
    seps = [between.removesuffix(assistant_prefix), end_of_answer]
    return _conv_template(tokens, system_template, system_message, roles, seps)


def _system_template(
    render: Chat, user: Mapping[str, str], user_prefix: str, start: str
) -> tuple[str, str]:
    """The start of a conversation with SYSTEM_PLACEHOLDER, and the template's default system text.

    ``start``: the rendered text before the first user prefix, without a system message. It is
    returned without a placeholder if the template refuses system messages, or if it cannot result
    from replacing the placeholder.
    """
    try:
        prompt = render([{"role": "system", "content": SYSTEM}, user], False)
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


def tokenizer_info(tokens: TokenFacts) -> dict[str, Any]:
    """How token texts become bytes, in MLC's terms; from the decoder of tokenizer.json, if any."""
    for path in tokens.files:
        if path.name == "tokenizer.json":
            values = json.loads(path.read_text(encoding="utf-8"))
            return _tokenizer_info(values)
    return {}


def _tokenizer_info(values: Mapping[str, Any]) -> dict[str, Any]:
    """``tokenizer_info`` from the content of tokenizer.json."""
    decoder, normalizer = json.dumps(values.get("decoder")), json.dumps(values.get("normalizer"))
    method = "byte_fallback" if "ByteFallback" in decoder else "byte_level"
    return {
        "token_postproc_method": method,
        "prepend_space_in_encode": '"Prepend"' in normalizer,
        "strip_space_in_decode": '"Strip"' in decoder,
    }


def write_chat_config(job: Job, definition: Definition, quantization: str, path: Path) -> str:
    """Write the file; return the fidelity of its chat template (see ``conversation``)."""
    values, fidelity = chat_config(job, definition, quantization)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    return fidelity
