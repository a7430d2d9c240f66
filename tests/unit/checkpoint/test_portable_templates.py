"""Templates in the smallest common Jinja: equal to the checkpoint's on every conversation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_templates import CONSTRUCTS, FAMILIES, template_of, with_template
from slmkit.checkpoint.chat.conversations import GOLDEN, golden_conversations, rendered
from slmkit.checkpoint.chat.portable import portable_template, rewritten
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError
from tiny_tokenizers import write_tokenizer

ALL = {**FAMILIES, **{name: template_of(name) for name in CONSTRUCTS}}
LACKING = (  # in one runtime or the other
    r"%- (generation|break|continue|with)\b|bos_token|eos_token|\.(upper|title|get|replace)\(|"
    r"\| (replace|first)\b|indent=|separators="
)
TURNS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(max_size=12)),
    max_size=5,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Tokenizer(folder)


@pytest.fixture(scope="module")
def portable(tokenizer):
    """Every template's portable form, by name."""
    return {
        name: portable_template(tokenizer.with_template(text)) or "" for name, text in ALL.items()
    }


@pytest.mark.parametrize("name", ALL)
def test_every_template_has_a_portable_form_without_what_runtimes_lack(portable, name):
    assert portable[name]
    tags = re.sub(r"'(\\.|[^'\\])*'", "''", portable[name])  # the texts in it may say anything
    assert not re.search(LACKING, tags)
    assert "\n" not in portable[name]


@settings(max_examples=40)
@given(name=st.sampled_from(sorted(ALL)), turns=TURNS, prompt=st.booleans())
def test_it_renders_conversations_of_any_text_alike(tokenizer, portable, name, turns, prompt):
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        expected = tokenizer.with_template(ALL[name]).chat(messages, prompt)
    except CheckpointError:  # a refusal, whose form may be another one
        return
    assert tokenizer.with_template(portable[name]).chat(messages, prompt) == expected


@pytest.mark.parametrize("name", ["gemma", "llama-3", "mistral", "phi-3"])
def test_the_bos_that_a_runtime_adds_itself_is_left_out(tokenizer, name):
    ours = tokenizer.with_template(FAMILIES[name])
    text = portable_template(ours, without_bos=True)
    for each in golden_conversations(ours):
        assert f"<s>{rendered(ours.with_template(text), each)}" == rendered(ours, each)


@pytest.mark.parametrize("name", ["chatml", "llama-2"])  # none; one before every turn
def test_there_is_no_such_form_of_other_templates(tokenizer, name):
    assert portable_template(tokenizer.with_template(FAMILIES[name]), without_bos=True) is None


@pytest.mark.parametrize(
    "arguments",
    ["indent=4", "indent=0", "sort_keys=True", "separators=(',', ':')", "False, 2, None, True"],
)
def test_json_with_arguments_is_written_by_a_macro(tokenizer, arguments):
    template = f"{{{{ {{'b': [1, [], 'ü\"'], 'a': {{}}, 'c': none}} | tojson({arguments}) }}}}"
    ours = tokenizer.with_template(template)
    text = rewritten(template, {})
    assert "macro json_text" in text
    assert rendered(ours.with_template(text), GOLDEN[0]) == rendered(ours, GOLDEN[0])


@pytest.mark.parametrize(
    "template",
    [
        "{% include 'x' %}",
        "{% for m in messages recursive %}{{ m.content }}{% endfor %}",
        "{% broken",
        "{{ raise_exception('never') }}",
        "{% set x | trim %} a {% endset %}{{ x }}",
    ],
)
def test_a_template_without_a_form_has_none_or_an_equal_one(tokenizer, template):
    ours = tokenizer.with_template(template)
    text = portable_template(ours)
    assert text is None or not golden_conversations(ours)


def test_a_form_that_is_not_equal_is_not_shipped(tokenizer, monkeypatch):
    monkeypatch.setattr(
        "slmkit.checkpoint.chat.portable.rewritten", lambda *given: "{{- 'another' -}}"
    )
    assert portable_template(tokenizer.with_template(FAMILIES["chatml"])) is None


def test_a_name_that_the_template_sets_itself_stays(tmp_path):
    ours = with_template(tmp_path, "{% set eos_token = '!' %}{{ eos_token }}{{ bos_token }}")
    assert portable_template(ours) == "{%- set eos_token = '!' -%}{{- eos_token -}}{{- '<s>' -}}"


def test_conversations_with_tools_are_those_of_templates_that_write_them(tokenizer):
    names = {
        family: {each.name for each in golden_conversations(tokenizer.with_template(text))}
        for family, text in FAMILIES.items()
    }
    assert {"tools", "tool call"} <= names["qwen-3"]
    assert "tools" not in names["zephyr"]
    assert "system and user" not in names["gemma"]  # refused: roles must alternate
