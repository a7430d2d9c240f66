"""Tokenizers of three kinds, and chat templates: good ones, and hostile ones."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError
from tiny_tokenizers import KINDS, SPACE, TEMPLATE, write_tokenizer

USER = [{"role": "user", "content": "hi"}]


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path)
    return tmp_path


def with_template(folder, template):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))
    return Tokenizer(folder)


@pytest.fixture(scope="module", params=KINDS)
def each_kind(request, tmp_path_factory):
    """A folder with a tokenizer of each kind."""
    folder = tmp_path_factory.mktemp(request.param)
    KINDS[request.param](folder)
    return folder


@given(text=st.text(max_size=60))
@example(text="  zwei  Küchen, 世界 🚀\n\x00")
def test_every_text_survives_its_tokens(each_kind, text):
    tokenizer = Tokenizer(each_kind)
    decoded = tokenizer.decode(tokenizer.encode(text, special=False))
    pieces = (each_kind / "tokenizer.model").exists()
    assert decoded == (text.replace(SPACE, " ") if pieces else text)


@pytest.mark.parametrize("kind", ["byte-fallback", "unigram"])
def test_tokens_are_those_of_the_sentencepiece_model_beside(tmp_path, kind):
    KINDS[kind](tmp_path)
    pieces = sentencepiece.SentencePieceProcessor(str(tmp_path / "tokenizer.model"))
    tokenizer = Tokenizer(tmp_path)
    for text in ("turn off the kitchen lights", "Grüße an 世界", "7:30 pm,  tomorrow"):
        ids = tokenizer.encode(text)
        assert ids == [1, *pieces.encode(text)]  # a bos, where the tokenizer says so
        assert tokenizer.encode(text, special=False) == ids[1:]
        assert tokenizer.decode(ids) == pieces.decode(ids) == text


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
    "template",
    [{"default": "x"}, [1], ["x"], [{"name": "default", "template": 1}], [{"name": ["x"]}]],
)
def test_a_template_of_another_kind_is_refused(folder, template):
    with pytest.raises(CheckpointError, match="chat_template is not a text"):
        with_template(folder, template)


SEVERAL = [{"name": "chat", "template": "c"}, {"name": "tool_use", "template": "t"}]


def test_a_list_of_templates_without_a_default_names_the_choices(folder):
    tokenizer = with_template(folder, SEVERAL)
    for prompt in (tokenizer.prompt_ids, lambda _: tokenizer.chat(USER)):
        with pytest.raises(CheckpointError, match="none is the default: chat, tool_use") as refused:
            prompt("hi")
        assert refused.value.hint == "choose one: slmkit build --chat-template chat"
    assert tokenizer.prompt_ids("hi", raw=True) == tokenizer.encode("hi")


def test_one_of_several_templates_is_chosen_by_name(folder):
    with_template(folder, SEVERAL)
    assert Tokenizer(folder, "tool_use").chat(USER) == "t"
    with pytest.raises(CheckpointError, match="no chat template 'rag'"):
        Tokenizer(folder, "rag")


def test_files_of_further_templates_are_found_by_their_names(folder):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    assert Tokenizer(folder).template == TEMPLATE
    assert Tokenizer(folder, "tool_use").template == "tools"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", '{"b": "é", "a": [1]}'),
        ("ensure_ascii=True", '{"b": "\\u00e9", "a": [1]}'),
        ("sort_keys=True", '{"a": [1], "b": "é"}'),
        ("separators=(',', ':')", '{"b":"é","a":[1]}'),
        ("indent=1", '{\n "b": "é",\n "a": [\n  1\n ]\n}'),
        ("False, 1, (',', ':'), True", '{\n "a":[\n  1\n ],\n "b":"é"\n}'),
    ],
)
def test_tojson_has_the_arguments_of_transformers(folder, arguments, text):
    template = f"{{{{ {{'b': 'é', 'a': [1]}} | tojson({arguments}) }}}}"
    assert with_template(folder, template).chat(USER) == text


def test_the_date_is_the_clock_s_unless_a_day_is_given(folder):
    tokenizer = with_template(folder, "{{ strftime_now('%d %B %Y') }}")
    assert tokenizer.on(datetime(2031, 5, 4)).chat(USER) == "04 May 2031"
    before = now_text()
    assert tokenizer.chat(USER) in (before, now_text())  # midnight may lie between


def now_text() -> str:
    return datetime.now().strftime("%d %B %Y")


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
