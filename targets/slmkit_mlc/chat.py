"""``mlc-chat-config.json``: sizes, tokenizer, and the chat template in MLC's own form.

MLC joins strings: a system text, then for each message a role's opening, the words and a
separator. Those are found by rendering the checkpoint's template, and what MLC would join is
compared with the template over longer conversations. Where they differ, the report says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from slmkit.errors import SlmkitError
from slmkit.target import Job, TokenFacts
from slmkit_mlc.contract import contract
from slmkit_mlc.definition import Definition

VERSION = "0.1.0"
SYSTEM, USER, ANSWER = "<<the system>>", "<<a question>>", "<<an answer>>"
WORDS = {"user": "{user_message}", "assistant": "{assistant_message}", "tool": "{tool_message}"}
Messages = Sequence[Mapping[str, str]]


def chat_config(job: Job, definition: Definition, quantization: str) -> tuple[dict[str, Any], bool]:
    """The file's content, and whether MLC's form of the template says the same as the template."""
    spec, limits, tokens = job.spec, definition.limits, job.tokens
    sizes = {
        "vocab_size": spec.vocabulary, "context_window_size": limits.context,
        "sliding_window_size": -1, "prefill_chunk_size": limits.prefill,
        "tensor_parallel_shards": 1, "pipeline_parallel_stages": 1,
    }  # fmt: skip
    template, exact = conversation(tokens)
    names = contract()["tokenizer_files"]
    values = {
        "version": VERSION, "model_type": spec.model_type, "quantization": quantization,
        "model_config": {
            **sizes, "max_batch_size": limits.batch, "hidden_size": spec.width,
            "num_hidden_layers": spec.layers, "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.kv_heads, "head_dim": spec.head_width,
            "intermediate_size": spec.feed_forward, "rms_norm_eps": spec.eps,
            "tie_word_embeddings": spec.tied,
        },
        **sizes, "attention_sink_size": -1, "active_vocab_size": spec.vocabulary,
        "temperature": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
        "repetition_penalty": 1.0, "top_p": 1.0,
        "tokenizer_files": [path.name for path in tokens.files if path.name in names],
        "tokenizer_info": tokenizer_info(tokens), "conv_template": template,
        "pad_token_id": tokens.pad or 0, "bos_token_id": tokens.bos,
        "eos_token_id": list(tokens.stop), "model_task": "chat",
    }  # fmt: skip
    return values, exact


def conversation(tokens: TokenFacts) -> tuple[dict[str, Any], bool]:
    """MLC's form of the chat template, and whether it says the same; without a template, words
    alone."""
    plain = _form(tokens, "", False, {"user": "", "assistant": ""}, [""])
    if tokens.chat is None:
        return plain, True
    try:
        found = _derived(tokens)
        exact = all(joined(found, each) == tokens.chat(each, True) for each in _conversations())
    except (ValueError, SlmkitError):  # the template is of no such form
        return plain, False
    return found, exact


def _derived(tokens: TokenFacts) -> dict[str, Any]:
    """Openings and separators, by what stands around known words."""
    render = tokens.chat
    if render is None:
        raise ValueError("there is no template")
    user, answer = {"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}
    system = _with_system(tokens, user)
    alone, opened = render([user], False), render([user], True)
    both = render([user, answer, user], False)
    between, after_answer = both.partition(USER)[2].split(ANSWER)
    next_user, opening = after_answer.partition(USER)[0], opened.removeprefix(alone)
    text, role = _head(alone.partition(USER)[0], next_user, system)
    roles = {"user": role, "assistant": opening}
    seps = [between.removesuffix(opening), next_user.removesuffix(role)]
    return _form(tokens, text, system is not None, roles, seps)


def _head(before: str, next_user: str, system: str | None) -> tuple[str, str]:
    """What begins a conversation, and a user's opening: the longest end that both have."""
    pairs = zip(reversed(before), reversed(next_user), strict=False)
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    role = before[len(before) - length :]
    return (before if system is None else system).removesuffix(role), role


def _with_system(tokens: TokenFacts, user: Mapping[str, str]) -> str | None:
    """What stands before a user's words after a system's; None if the template knows none, or has
    one of its own."""
    if tokens.chat is None:
        return None
    try:
        whole = tokens.chat([{"role": "system", "content": SYSTEM}, user], False)
    except SlmkitError:  # the template refuses a system's words
        return None
    before = whole.partition(USER)[0]
    return before.replace(SYSTEM, "{system_message}") if SYSTEM in before else None


def _form(
    tokens: TokenFacts, system: str, named: bool, roles: dict[str, str], seps: list[str]
) -> dict[str, Any]:
    return {
        "name": "slmkit", "system_template": system if named else "{system_message}",
        "system_message": "" if named else system, "system_prefix_token_ids": None,
        "add_role_after_system_message": True, "roles": {**roles, "tool": roles["user"]},
        "role_templates": WORDS, "messages": [], "seps": seps, "role_content_sep": "",
        "role_empty_sep": "", "stop_str": [], "stop_token_ids": list(tokens.stop),
        "function_string": "", "use_function_calling": False,
    }  # fmt: skip


def joined(form: Mapping[str, Any], messages: Messages) -> str:
    """The prompt that MLC makes of a conversation (``Conversation.as_prompt``)."""
    message, spoken = form["system_message"], list(messages)
    if spoken and spoken[0]["role"] == "system":
        message = spoken.pop(0)["content"]
    text: str = form["system_template"].replace("{system_message}", message)
    seps = form["seps"] * (3 - len(form["seps"]))
    for each in spoken:
        sep = seps[each["role"] == "assistant"]
        text += form["roles"][each["role"]] + form["role_content_sep"] + each["content"] + sep
    whole: str = text + form["roles"]["assistant"] + form["role_empty_sep"]
    return whole


def _conversations() -> list[Messages]:
    """What the two forms are compared on."""
    user = [{"role": "user", "content": text} for text in ("Hello!", "And then?", "Thanks.")]
    answer = [{"role": "assistant", "content": text} for text in ("Hi.", "Nothing.")]
    return [[user[0]], [user[0], answer[0], user[1]],
            [user[0], answer[0], user[1], answer[1], user[2]]]  # fmt: skip


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


def write_chat_config(job: Job, definition: Definition, quantization: str, path: Path) -> bool:
    """Write the file; whether the template's form is exact."""
    values, exact = chat_config(job, definition, quantization)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    return exact
