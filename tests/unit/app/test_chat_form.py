"""Chat forms write what the template writes, or there is none and a sentence says why."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_templates import FAMILIES, with_template
from slmkit.app.chat_form import ChatForm, NoChatForm
from slmkit.app.chat_proof import chat_form
from slmkit.checkpoint.tokenizer import BUILD_DAY, Tokenizer
from tiny_tokenizers import begin_with_bos, write_tokenizer

VECTORS = Path(__file__).resolve().parents[3] / "sample_apps" / "vectors"
KINDS = sorted(path.parent.name for path in VECTORS.glob("*/chat.json"))
LOOP = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
# Templates without a form, each with a word of the reason.
REFUSED = {
    "the number of a message": "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}",
    "a title": "{% for m in messages %}{{ m.content | title }}{% endfor %}",
    "the last message alone": "{{ messages[-1].content }}",
    "twice": "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    "the right end": "{% for m in messages %}<{{ m.content.rstrip() }}>{% endfor %}",
    "the time": "{{ strftime_now('%H:%M') }}" + LOOP,
    "no answers": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}",
    "a word": "{% for m in messages %}{{ 'x' if 'мир' in m.content }}{{ m.content }}{% endfor %}",
}


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: Tokenizer(VECTORS / kind).on(BUILD_DAY) for kind in KINDS}


@pytest.mark.parametrize("family", [each for each in FAMILIES if each != "granite"])
def test_families_have_a_form(family, tmp_path):
    assert isinstance(chat_form(with_template(tmp_path, FAMILIES[family])), ChatForm)


@pytest.mark.parametrize("name", REFUSED)
def test_another_template_is_refused_in_a_sentence(name, tmp_path):
    found = chat_form(with_template(tmp_path, REFUSED[name]))
    assert isinstance(found, NoChatForm)
    assert found.refused.startswith("the chat template ") and found.refused.count(".") <= 1


def test_a_checkpoint_without_a_template_has_no_form(tmp_path):
    write_tokenizer(tmp_path)
    begin_with_bos(tmp_path)
    found = chat_form(Tokenizer(tmp_path).with_template(None))
    assert found == NoChatForm(refused="the checkpoint has no chat template", start_ids=(1,))


def test_a_system_message_without_a_fixed_place_is_not_offered(tmp_path):
    last = (
        "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>"
        "{{ system if loop.last }}{{ m.content }}{% endif %}{% endfor %}<answer>"
    )
    found = chat_form(with_template(tmp_path, last))
    assert isinstance(found, ChatForm)
    assert found.system is None
    assert found.render([{"role": "user", "content": "hi"}]) == "<user>hi<answer>"


def test_a_date_is_named_with_its_pattern(tmp_path):
    found = chat_form(with_template(tmp_path, "{{ strftime_now('%B %d, %Y') }}|" + LOOP))
    assert isinstance(found, ChatForm)
    assert found.date is not None
    assert (found.date.text, found.date.pattern) == ("January 01, 2026", "MMMM dd, yyyy")
    tokenizer = with_template(tmp_path, "{{ strftime_now('%B %d, %Y') }}|" + LOOP)
    messages = [{"role": "user", "content": "hi"}]
    text = found.render(messages).replace(found.date.text, "March 09, 2027")
    assert text == tokenizer.on(datetime(2027, 3, 9)).chat(messages)


@given(st.data())
def test_any_conversation_is_rendered_as_the_template_does(tokenizers, data):
    kind = data.draw(st.sampled_from(KINDS))
    form = ChatForm.model_validate_json((VECTORS / kind / "chat.json").read_text("utf-8"))
    letters = st.characters(exclude_categories=["Cs"])
    pieces = st.text(letters, min_size=1) | st.sampled_from(
        ["</think>", "<think>", "\n", " ", "|>"]
    )
    text = st.lists(pieces, min_size=1, max_size=4).map("".join)
    turns = data.draw(st.integers(0, 3)) * 2 + 1
    roles = [*["system"] * data.draw(st.integers(0, 1)), *("user", "assistant") * turns]
    roles = roles[: turns + (roles[0] == "system")]
    messages = [{"role": role, "content": data.draw(text)} for role in roles]
    assert form.render(messages) == tokenizers[kind].chat(messages)
