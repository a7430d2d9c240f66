"""Tokenizers and chat templates: real ones, and hostile ones."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError
from tiny_models import SHARED, STORIES, TEMPLATE, write_tokenizer

REAL = {"phi3": SHARED / "tokenizers" / "phi3", "gptneox": SHARED / "tokenizers" / "gptneox"}
USER = [{"role": "user", "content": "hi"}]


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path)
    return tmp_path


def with_template(folder, template):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return Tokenizer(folder)


@given(st.text(max_size=60))
def test_a_byte_level_tokenizer_keeps_every_text(text):
    tokenizer = Tokenizer(REAL["gptneox"])
    decoded = tokenizer.decode(tokenizer.encode(text, special=False))
    import unicodedata

    assert decoded == unicodedata.normalize("NFC", text)  # what this tokenizer's normalizer does


def test_a_bos_is_added_where_the_tokenizer_says_so():
    tokenizer = Tokenizer(STORIES)
    assert tokenizer.encode("Once")[0] == 1
    assert tokenizer.encode("Once", special=False)[0] != 1
    assert tokenizer.decode(tokenizer.encode("Once upon a time")).strip() == "Once upon a time"


def test_special_tokens_and_stop_ids_are_found(folder):
    tokenizer = Tokenizer(folder)
    assert tokenizer.token_id("bos_token") == 1
    assert tokenizer.token_id("unk_token") is None
    assert tokenizer.stop_ids == (2,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')
    assert Tokenizer(folder).stop_ids == (5, 6)


def test_a_token_may_be_an_object_with_its_content(folder):
    path = folder / "tokenizer_config.json"
    values = {**json.loads(path.read_text()), "eos_token": {"content": "</s>", "lstrip": False}}
    path.write_text(json.dumps(values))
    assert Tokenizer(folder).special["eos_token"] == "</s>"


def test_a_template_renders_messages_with_and_without_the_prompt(folder):
    tokenizer = Tokenizer(folder)
    messages = [*USER, {"role": "assistant", "content": "yo"}]
    assert tokenizer.chat(messages) == "<|user|>hi<|assistant|>yo<|assistant|>"
    assert tokenizer.chat(messages, add_generation_prompt=False) == "<|user|>hi<|assistant|>yo"


def test_a_prompt_goes_through_the_template_unless_raw(folder):
    tokenizer = Tokenizer(folder)
    chat = tokenizer.encode(tokenizer.chat(USER), special=False)
    assert tokenizer.prompt_ids("hi") == chat
    assert tokenizer.prompt_ids("hi", raw=True) == tokenizer.encode("hi")


def test_the_template_file_wins(folder):
    (folder / "chat_template.jinja").write_text("file {{ messages[0].content }}")
    assert Tokenizer(folder).chat(USER) == "file hi"


def test_of_several_templates_the_default_is_taken(folder):
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": TEMPLATE}]
    assert with_template(folder, named).template == TEMPLATE


def test_no_template_is_a_hint_not_a_crash(folder):
    with pytest.raises(CheckpointError, match="no chat template"):
        with_template(folder, None).chat(USER)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "hi"}]'),
        ("{% generation %}kept{% endgeneration %}", "kept"),
        ("{{ 'ü' | tojson }}", '"ü"'),
        ("{% for m in messages %}{% continue %}x{% endfor %}y", "y"),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("{{ strftime_now('%Y') | length }}", "4"),
    ],
)
def test_hugging_face_s_additions_work(folder, template, text):
    assert with_template(folder, template).chat(USER) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('only user messages') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ messages[7].content.x }}",
        "{% broken",
    ],
)
def test_a_hostile_or_broken_template_is_one_sentence(folder, template):
    with pytest.raises(CheckpointError, match="the chat template failed"):
        with_template(folder, template).chat(USER)


@pytest.mark.parametrize(
    "template", [{"default": "x"}, [1], ["x"], [{"name": "default", "template": 1}]]
)
def test_a_template_of_another_kind_is_refused(folder, template):
    with pytest.raises(CheckpointError, match="chat_template is not a text"):
        with_template(folder, template)


def test_a_list_of_templates_without_a_default_has_none(folder):
    assert with_template(folder, [{"name": ["x"], "template": "x"}]).template is None


def test_a_template_file_that_is_no_text_is_named(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"chat_template\.jinja cannot be read as text"):
        Tokenizer(folder)


@pytest.mark.parametrize("ids", [-1, 10**12, [1, -1]])
def test_an_id_that_no_token_has_does_not_end_answers(folder, ids):
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(CheckpointError, match=r"eos_token_id is .*, expected the id of a token"):
        Tokenizer(folder)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_a_broken_side_file_is_named(folder, name):
    (folder / name).write_text("[]")
    with pytest.raises(CheckpointError, match=name):
        Tokenizer(folder)


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_open(name, tmp_path):
    copy = shutil.copytree(REAL[name], tmp_path / name)
    tokenizer = Tokenizer(copy)
    assert tokenizer.decode(tokenizer.encode("Hello, world", special=False)) == "Hello, world"
