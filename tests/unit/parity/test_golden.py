"""Golden prompts: texts with their contents, bos, room; the first one is for slow runtimes."""

from __future__ import annotations

import json
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest

from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.parity.golden import (
    FIRST,
    LARGE,
    LEAST_WORDS,
    RANDOM,
    TEXT,
    TEXTS,
    golden_prompts,
)
from tiny_tokenizers import KINDS, TEMPLATE, write_tokenizer

SYSTEM = "{{ bos_token }}the lights the kitchen the quick brown fox turns off </s>"


@pytest.fixture
def tokenizer(tmp_path):
    write_tokenizer(tmp_path)

    def with_template(template):
        path = tmp_path / "tokenizer_config.json"
        settings = {**json.loads(path.read_text()), "chat_template": template}
        path.write_text(json.dumps(settings))
        return Tokenizer(tmp_path)

    return with_template


def prompts_of(tokenizer, context=512, parameters=1000):
    spec: Any = SimpleNamespace(vocabulary=tokenizer.size)
    return golden_prompts(tokenizer, spec, context, parameters)


def split(prompts):
    """The texts, and the random ids."""
    return [each for each in prompts if each.text], [each for each in prompts if not each.text]


def shared_words(tokenizer, prompt, template):
    """Words of its text that a prompt in a template holds, from the first one on."""
    rendered = tokenizer.decode(prompt.ids, special=True)
    words = prompt.name.split(" ")
    for count in range(len(words), 0, -1):
        content = " ".join(words[:count])
        if rendered == tokenizer.chat([{"role": "user", "content": content}]):
            return count
    return 0


def test_behind_a_long_system_message_all_texts_differ_and_hold_their_contents(tokenizer):
    tokens = tokenizer(SYSTEM + TEMPLATE)
    overhead = len(tokens.prompt_ids(""))
    assert overhead > 24  # a prompt that is cut at its end holds nothing else
    texts, _ = split(prompts_of(tokens))
    assert len(texts) == len(TEXTS) >= 3
    for one, other in combinations(texts, 2):
        assert one.ids.tolist() != other.ids.tolist()
    for prompt in texts:
        assert shared_words(tokens, prompt, SYSTEM) >= LEAST_WORDS
        assert len(prompt.ids) <= TEXT


def test_a_template_longer_than_the_room_gives_way_to_plain_text(tokenizer):
    tokens = tokenizer(SYSTEM * 4 + TEMPLATE)
    assert len(tokens.prompt_ids("")) > TEXT
    texts, _ = split(prompts_of(tokens))
    for prompt in texts:
        assert prompt.name.startswith(tokens.decode(prompt.ids))
    assert len({prompt.ids.tobytes() for prompt in texts}) == len(TEXTS)


def test_the_first_prompt_is_the_shortest_text(tokenizer):
    texts, _ = split(prompts_of(tokenizer("{{ messages[0].content }}")))
    assert len(texts[0].ids) <= FIRST
    assert len(texts[0].ids) == min(len(each.ids) for each in texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", [8, 32, 256])
def test_prompts_fit_into_half_of_any_context_and_texts_come_first(tmp_path, kind, context):
    KINDS[kind](tmp_path)
    prompts = prompts_of(Tokenizer(tmp_path), context)
    assert [each.text for each in prompts] == [True] * 3 + [False] * 8
    for prompt in prompts:
        assert 0 < len(prompt.ids) <= context // 2
        assert len(prompt.ids) + prompt.decode <= context
    assert len({each.ids.tobytes() for each in prompts}) == len(prompts)


@pytest.mark.parametrize("template", [None, "{{ bos_token }}" + TEMPLATE])
def test_every_prompt_begins_with_bos_where_a_user_s_prompt_does(tmp_path, template):
    KINDS["byte-fallback"](tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    tokens = Tokenizer(tmp_path)
    for prompt in prompts_of(tokens):
        assert prompt.ids[0] == tokens.token_id("bos_token"), prompt.name
        assert prompt.text or len(prompt.ids) == RANDOM


def test_no_bos_is_invented(tokenizer):
    tokens = tokenizer(None)
    assert tokens.encode("a")[0] != tokens.token_id("bos_token")
    texts, random = split(prompts_of(tokens))
    for prompt in (*texts, *random):
        assert prompt.ids[0] != tokens.token_id("bos_token")


def test_a_large_model_reads_three_texts_and_decodes_far_after_the_first(tokenizer):
    prompts = prompts_of(tokenizer(TEMPLATE), parameters=LARGE + 1)
    assert [each.text for each in prompts] == [True] * 3 + [False]
    assert prompts[0].decode > 10 * prompts[1].decode > 0
