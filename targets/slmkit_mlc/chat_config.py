"""``mlc-chat-config.json``: sizes, tokenizer, and the chat template in MLC's own form.

MLC joins strings: a system text, then for each message a role's opening, the words and a
separator. Those are found by rendering the checkpoint's template, and what MLC would join is
compared with the template over longer conversations. Where they differ, the report says so.
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
EXACT, NO_SYSTEM, DIFFERS = "exact", "no system", "differs"
PLACE = "{system_message}"
SYSTEM, USER, ANSWER = "<<the system>>", "<<a question>>", "<<an answer>>"
WORDS = {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"}
Messages = Sequence[Mapping[str, str]]


def chat_config(job: Job, definition: Definition, quantization: str) -> tuple[dict[str, Any], str]:
    """The file's content, and how well MLC's form of the template says the same."""
    spec, limits, tokens = job.spec, definition.limits, job.tokens
    sizes = {
        "vocab_size": spec.vocabulary,
        "context_window_size": limits.context,
        "sliding_window_size": -1,
        "prefill_chunk_size": limits.prefill,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
    }
    template, likeness = conversation(tokens)
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
        "active_vocab_size": spec.vocabulary,
        "temperature": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "top_p": 1.0,
        "tokenizer_files": [path.name for path in tokens.files if path.name in names],
        "tokenizer_info": tokenizer_info(tokens),
        "conv_template": template,
        "pad_token_id": tokens.pad or 0,
        "bos_token_id": tokens.bos,
        "eos_token_id": list(tokens.stop),
        "model_task": "chat",
    }
    return values, likeness


def conversation(tokens: TokenFacts) -> tuple[dict[str, Any], str]:
    """MLC's form of the chat template, and how well it says the same: ``exact``, ``no system``
    (without a system's words exact, with them they are lost) or ``differs``."""
    if tokens.chat is None:
        return _form(tokens, PLACE, "", {"user": "", "assistant": ""}, [""]), EXACT
    try:
        form = _derived(tokens, tokens.chat)
        exact = all(joined(form, each) == tokens.chat(each, True) for each in _conversations(form))
    except (ValueError, SlmkitError):  # the template is of no such form
        return _form(tokens, PLACE, "", {"user": "", "assistant": ""}, [""]), DIFFERS
    known = EXACT if PLACE in form["system_template"] else NO_SYSTEM
    return form, known if exact else DIFFERS


def _derived(tokens: TokenFacts, render: Chat) -> dict[str, Any]:
    """Openings and separators, by what stands around known words."""
    user, answer = {"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}
    alone, opened = render([user], False), render([user], True)
    both = render([user, answer, user], False)
    between, after_answer = both.partition(USER)[2].split(ANSWER)
    opening = opened.removeprefix(alone)
    last = render([user, answer], False).partition(ANSWER)[2]  # what ends an answer
    role = after_answer.partition(USER)[0].removeprefix(last)
    head = alone.partition(USER)[0].removesuffix(role)
    template, message = _system(render, user, role, head)
    roles = {"user": role, "assistant": opening}
    return _form(tokens, template, message, roles, [between.removesuffix(opening), last])


def _system(render: Chat, user: Mapping[str, str], role: str, head: str) -> tuple[str, str]:
    """What begins a conversation: with a place for a system's words, and those that the template
    itself puts there; without a place where a missing system leaves something else."""
    try:
        whole = render([{"role": "system", "content": SYSTEM}, user], False)
    except SlmkitError:  # the template refuses a system's words
        return head, ""
    first, known, rest = whole.partition(USER)[0].removesuffix(role).partition(SYSTEM)
    inside = len(head) - len(first) - len(rest)
    if known and inside >= 0 and head.startswith(first) and head.endswith(rest):
        return first + PLACE + rest, head[len(first) : len(first) + inside]
    return head, ""


def _form(
    tokens: TokenFacts, template: str, message: str, roles: dict[str, str], seps: list[str]
) -> dict[str, Any]:
    return {
        "name": "slmkit",
        "system_template": template,
        "system_message": message,
        "system_prefix_token_ids": None,
        "add_role_after_system_message": True,
        "roles": {**roles, "tool": roles["user"]},
        "role_templates": WORDS,
        "messages": [],
        "seps": seps,
        "role_content_sep": "",
        "role_empty_sep": "",
        "stop_str": [],
        "stop_token_ids": list(tokens.stop),
        "function_string": "",
        "use_function_calling": False,
    }


def joined(form: Mapping[str, Any], messages: Messages) -> str:
    """The prompt that MLC makes of a conversation (``Conversation.as_prompt``)."""
    message, spoken = form["system_message"], list(messages)
    if spoken and spoken[0]["role"] == "system":
        message = spoken.pop(0)["content"]
    text: str = form["system_template"].replace(PLACE, message)
    seps = form["seps"] * (3 - len(form["seps"]))
    for each in spoken:
        sep = seps[each["role"] == "assistant"]
        text += form["roles"][each["role"]] + form["role_content_sep"] + each["content"] + sep
    whole: str = text + form["roles"]["assistant"] + form["role_empty_sep"]
    return whole


def _conversations(form: Mapping[str, Any]) -> list[Messages]:
    """What the two forms are compared on."""
    user = [{"role": "user", "content": text} for text in ("Hello!", "And then?", "Thanks.")]
    answer = [{"role": "assistant", "content": text} for text in ("Hi.", "Nothing.")]
    turns = [user[0], answer[0], user[1], answer[1], user[2]]
    found: list[Messages] = [turns[:1], turns[:3], turns]
    if PLACE in form["system_template"]:
        found.append([{"role": "system", "content": "Be brief."}, *turns[:3]])
    return found


def tokenizer_info(tokens: TokenFacts) -> dict[str, Any]:
    """How token texts become bytes: MLC's two ways, read off tokenizer.json's decoder."""
    for path in tokens.files:
        if path.name == "tokenizer.json":
            values = json.loads(path.read_text(encoding="utf-8"))
            return _info(values)
    return {}


def _info(values: Mapping[str, Any]) -> dict[str, Any]:
    decoder, normalizer = json.dumps(values.get("decoder")), json.dumps(values.get("normalizer"))
    level = "byte_fallback" if "ByteFallback" in decoder else "byte_level"
    return {
        "token_postproc_method": level,
        "prepend_space_in_encode": '"Prepend"' in normalizer,
        "strip_space_in_decode": '"Strip"' in decoder,
    }


def write_chat_config(job: Job, definition: Definition, quantization: str, path: Path) -> str:
    """Write the file; how well its template says the same."""
    values, likeness = chat_config(job, definition, quantization)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    return likeness
