"""Calibration text: whose, in which form, and what a mistake in it says."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.errors import SlmkitError
from slmkit.inference.evaluate import HELD_OUT, read_examples
from slmkit.planning.calibration import BUILT_IN, FILE, PIECE, _pieces, calibration_texts
from tiny_models import tiny_config, write_checkpoint

OURS_HELD_OUT = BUILT_IN.with_name("held_out.jsonl")  # read by no calibration
SCRIPTS = {
    "Latin": "[a-z]",
    "Cyrillic": "[\u0400-\u04ff]",
    "kana": "[\u3040-\u30ff]",
    "Han": "[\u4e00-\u9fff]",
    "Arabic": "[\u0600-\u06ff]",
    "Devanagari": "[\u0900-\u097f]",
}


@pytest.fixture(scope="module")
def home():
    return open_checkpoint(SAMPLE_MODEL)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkpoint without a calibration text of its own."""
    folder = tmp_path_factory.mktemp("plain")
    return open_checkpoint(write_checkpoint(folder, tiny_config("llama")))


def test_home_brings_its_own_and_none_of_it_is_held_out(home):
    lines = (SAMPLE_MODEL / FILE).read_text(encoding="utf-8").splitlines()
    said = {json.loads(line)["messages"][0]["content"] for line in lines}
    assert len(said) == len(calibration_texts(home, None)) > 100
    assert not said & {each.prompt for each in read_examples(HELD_OUT)}
    ids = calibration_texts(home, None)[0]
    assert '{"intent"' in home.tokenizer.decode(ids)


def test_a_model_without_its_own_gets_ours_in_its_own_tokens(plain):
    (plain.folder / FILE).unlink()
    texts = calibration_texts(plain, None)
    assert len(texts) == len(BUILT_IN.read_text(encoding="utf-8").splitlines())
    assert sum(map(len, texts)) > 42_000
    assert all(0 <= token < plain.spec.vocabulary for text in texts for token in text)


@pytest.mark.parametrize(("path", "least"), [(BUILT_IN, 300), (OURS_HELD_OUT, 40)])
def test_what_ships_holds_conversations_and_text_in_many_scripts(path, least):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(set(lines)) == len(lines) >= least
    values = [json.loads(line) for line in lines]
    conversations = [value["messages"] for value in values if "messages" in value]
    assert least / 4 < len(conversations) < len(lines)
    for messages in conversations:
        roles = [message["role"] for message in messages]
        roles = roles[1:] if roles[0] == "system" else roles
        assert roles == ["user", "assistant"] * (len(roles) // 2) != []
        assert all(message["content"].strip() for message in messages)
    assert all(value["text"].strip() for value in values if "text" in value)
    assert [name for name, letter in SCRIPTS.items() if not re.search(letter, text)] == []


def test_what_ships_as_held_out_is_not_calibrated_with():
    ours, held_out = (
        set(path.read_text(encoding="utf-8").splitlines()) for path in (BUILT_IN, OURS_HELD_OUT)
    )
    assert not ours & held_out


def test_plain_text_and_conversations_can_be_given(home, tmp_path):
    (tmp_path / "a.txt").write_text("turn off the lights\n\nall of them")
    plain = calibration_texts(home, tmp_path / "a.txt")
    assert plain == (tuple(home.tokenizer.encode("turn off the lights\n\nall of them")),)
    lines = [{"messages": [{"role": "user", "content": "hello"}]}, {"text": "hello"}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    said, text = calibration_texts(home, tmp_path / "b.jsonl")
    assert len(said) > len(text)  # the chat template's words around it


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"messages": [{"role": "user"}]}', "line 1, is not a conversation"),
        ("a.jsonl", b'{"text": "good"}\n[1, 2]', "line 2, is not a conversation"),
        ("a.jsonl", b'{"text": 3}', "line 1"),
        ("a.jsonl", b"not json", "line 1"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": 7}]}', "line 1"),
        ("a.jsonl", b"", "holds no text"),
        ("a.txt", b"", "holds no text"),
        ("a.txt", b"\xff\xfe\x00", "cannot read"),
    ],
)
def test_a_mistake_is_one_sentence(plain, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SlmkitError) as caught:
        calibration_texts(plain, tmp_path / name)
    assert said in caught.value.message and caught.value.hint


def test_an_answer_is_a_conversation(home, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "turn it off", "answer": "ok"}', encoding="utf-8")
    ids = calibration_texts(home, path)[0]
    said = home.tokenizer.decode(ids, special=True)
    assert said == "<bos><|user|>turn it off<|end|><|assistant|>ok<|end|>"


def test_a_missing_file_is_one_sentence(plain, tmp_path):
    with pytest.raises(SlmkitError, match="cannot read the text"):
        calibration_texts(plain, tmp_path / "nowhere.txt")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.sampled_from(["x.jsonl", "x.txt"]))
def test_any_bytes_give_ids_or_a_sentence(plain, tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    try:
        texts = calibration_texts(plain, tmp_path / name)
    except SlmkitError as error:
        assert error.hint
    else:
        assert all(texts)


@given(st.lists(st.text(max_size=300), max_size=40).map("\n".join))
def test_a_long_plain_text_is_several_texts_of_whole_lines(text):
    pieces = list(_pieces(text))
    assert text.startswith("".join(pieces))
    assert not text[len("".join(pieces)) :].strip()
    assert all(len(piece) >= PIECE for piece in pieces[:-1])


def test_every_piece_of_a_plain_text_begins_as_a_text_in_use(home, tmp_path):
    (tmp_path / "a.txt").write_text("turn off the lights\n" * 100)
    texts = calibration_texts(home, tmp_path / "a.txt")
    begins = tuple(home.tokenizer.encode("turn off the lights"))[:4]
    assert [text[:4] for text in texts] == [begins] * 3
