"""Chat templates and tokenizers that hang, fill the memory or crash: one sentence each, soon."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiers
from slmkit.checkpoint import isolated_tokenizer
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError, SlmkitError
from tiny_tokenizers import write_tokenizer

USER = [{"role": "user", "content": "hi"}]
SLOW = "hostile inputs that are ended only after a second"
DOUBLED = (
    "{% set ns = namespace(s='0123456789') %}"
    "{% for a in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}"
)
TEMPLATES = {
    "nested ranges": "{% for a in range(9999) %}" * 3 + "{% endfor %}" * 3,
    "huge power": "{{ 10 ** (10 ** 9) }}",
    "doubling": DOUBLED,
    "long text": "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
    "padding": "{{ '%9999999999d' % 1 }}",
    "centered": "{{ 'a'.center(99999999999) }}",
    "repeated": "{{ [1] * 9999999999 }}",
    "indentation": "{{ messages | tojson(indent=10 ** 10) }}",
    "ValueError": "{{ 'x'.encode('y') }}",
    "surrogate": "{{ '\\ud800' }}",
    "SyntaxError": "{{ dict(a=1, a=2) }}",
    "RuntimeError": "{% extends 'x' %}",
    "AssertionError": "{% block a %}{% endblock %}{% block a %}{% endblock %}",
    "parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "itself": "{% block a %}{{ self.a() }}{% endblock %}",
}
QUICK = [name for name in TEMPLATES if name not in ("nested ranges", "huge power", "doubling")]


@pytest.fixture
def folder(tmp_path):
    write_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(isolated_tokenizer, "SECONDS", 1)


def changed(folder, **parts):
    """The tokenizer of the folder with other parts."""
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))
    return Tokenizer(folder)


def split(pattern):
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


@pytest.mark.parametrize("name", tiers.some(TEMPLATES, *QUICK, why=SLOW))
def test_a_hostile_template_is_one_sentence(folder, name):
    tokenizer = Tokenizer(folder)
    tokenizer.template = TEMPLATES[name]
    with pytest.raises(CheckpointError, match="the chat template failed: ") as caught:
        tokenizer.chat(USER)
    assert "\n" not in caught.value.message and len(caught.value.message) < 400
    tokenizer.template = "{{ messages[0].content }}"
    assert tokenizer.chat(USER) == "hi"  # the next one finds a worker


@given(st.text("{}%# abcdef()[]|~'\"+*.,=\n", max_size=40))
@settings(max_examples=50)
def test_any_template_is_text_or_one_sentence(tmp_path_factory, template):
    folder = tmp_path_factory.mktemp("any")
    write_tokenizer(folder)
    tokenizer = Tokenizer(folder)
    tokenizer.template = template
    try:
        assert isinstance(tokenizer.chat(USER), str)
    except CheckpointError as error:
        assert error.message.startswith("the chat template failed: ")


@pytest.mark.parametrize("pattern", [r"(a|aa)+$", r"(a+)+$"])
def test_a_pattern_that_explodes_is_one_sentence(folder, pattern):
    tokenizer = changed(folder, pre_tokenizer=split(pattern))
    with pytest.raises(CheckpointError, match="cannot encode the text: "):
        tokenizer.encode("a" * 40 + "!")


def test_a_panic_of_the_library_is_one_sentence(folder):
    token = {"SpecialToken": {"id": "none such", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [token], "pair": [], "special_tokens": {}}
    tokenizer = changed(folder, post_processor=template)
    with pytest.raises(CheckpointError, match="cannot encode the text: "):
        tokenizer.encode("a")


def test_a_normalizer_that_fills_the_memory_is_ended(folder, monkeypatch):
    monkeypatch.setattr(isolated_tokenizer, "SECONDS", 60)  # memory ends it, on a slow machine too
    longer = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    tokenizer = changed(folder, normalizer={"type": "Sequence", "normalizers": [longer] * 4})
    with pytest.raises(CheckpointError, match=r"it needs more than .* GB of memory"):
        tokenizer.encode("a" * 100)


@pytest.mark.parametrize("ids", [[-1], [2**40]])
def test_an_id_that_is_none_is_one_sentence(folder, ids):
    with pytest.raises(CheckpointError, match="cannot decode the tokens: "):
        Tokenizer(folder).decode(ids)


def test_half_of_a_character_in_a_text_is_one_sentence(folder):
    with pytest.raises(SlmkitError, match="character 3 is half of one") as caught:
        Tokenizer(folder).encode("hi\ud83d")
    assert "UTF-8" in caught.value.hint


def test_messages_that_are_no_json_are_one_sentence(folder):
    with pytest.raises(CheckpointError, match="are not those of JSON"):
        Tokenizer(folder).chat([{"role": "user", "content": object()}])


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_that_is_no_plain_file_is_not_read(folder, name, kind):
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match=r"is not a plain file"):
        Tokenizer(folder)


def test_a_template_of_a_hundred_megabytes_is_not_read(folder):
    with open(folder / "chat_template.jinja", "wb") as file:
        file.truncate(100_000_000)  # it takes no room on the disk
    with pytest.raises(CheckpointError, match="at most 4194304 are read"):
        Tokenizer(folder)
    (folder / "chat_template.jinja").write_text("x" * 2_000_000)
    with pytest.raises(CheckpointError, match="has 2000000 characters"):
        Tokenizer(folder).chat(USER)


def test_a_tokenizer_that_changes_while_it_is_in_use_is_not_mixed(folder):
    first = Tokenizer(folder)
    ids = first.encode("lights")
    for _ in range(10):  # more than the worker keeps open
        with open(folder / "tokenizer.json", "a") as file:
            file.write(" ")
        Tokenizer(folder)
    with pytest.raises(CheckpointError, match="was changed while it was in use"):
        first.decode(ids)
