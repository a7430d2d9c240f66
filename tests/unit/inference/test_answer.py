"""Answers: where they end, what is counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.errors import UsageError
from slmkit.inference.answer import Answer
from slmkit.inference.load import load

PROMPT = "turn off the kitchen lights at 7 pm"
WHOLE = '{"intent":"light","room":"kitchen","state":"off","time":"19:00"}'


@pytest.fixture(scope="module")
def session():
    return load(SAMPLE_MODEL)


class Letters:
    """A tokenizer whose ids are characters."""

    class library:  # noqa: N801 - as the attribute's name is
        byte_ids: frozenset[int] = frozenset()
        special_ids = byte_ids

    def decode(self, ids):
        return "".join(map(chr, ids))


def answered(text: str, stop: list[str]) -> Any:
    def tokens():
        yield from map(ord, text)
        return "length"

    letters: Any = Letters()
    return Answer(letters, tokens(), 1, 0, stop)


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_an_answer_ends_before_the_stop_text_that_is_whole_first(text, stop):
    answer = answered(text, stop)
    pieces = list(answer)
    ends = [(text.index(each) + len(each), text.index(each)) for each in stop if each in text]
    expected = text[: min(ends)[1]] if ends else text
    assert "".join(pieces) == answer.text == expected
    assert answer.finish == ("stop" if ends else "length")


def test_pieces_come_as_soon_as_no_stop_text_can_begin_in_them():
    answer = answered("xab?", ["abc"])
    assert list(answer) == ["x", "ab?"]


def test_tokens_and_times_are_counted(session):
    answer = session.stream(PROMPT)
    assert "".join(answer) == WHOLE
    facts = answer.statistics
    assert answer.finish == "stop"
    assert facts.prompt_tokens == len(session.prompt_ids(PROMPT)) and facts.reused_tokens == 0
    assert facts.answer_tokens > 5 and facts.decode_s > 0 and facts.first_token_s > 0
    assert facts.prefill_rate > 0 and facts.decode_rate > 0


def test_an_answer_that_is_cut_says_so(session):
    answer = session.stream(PROMPT, max_tokens=3)
    text = "".join(answer)
    assert WHOLE.startswith(text) and answer.finish == "length"
    assert answer.statistics.answer_tokens == 3


def test_a_closed_answer_keeps_what_was_said(session):
    answer = session.stream(PROMPT)
    first = next(answer)
    answer.close()
    assert answer.text == first and not list(answer)


def test_a_stop_text_ends_an_answer(session):
    assert session.generate(PROMPT, stop=[',"room"', "zzz"]) == '{"intent":"light"'


@pytest.mark.parametrize(
    "asked",
    [{"stop": [""]}, {"raw": True, "system": "x"}, {"tools": [{"name": "f"}]}],
)
def test_what_cannot_be_done_is_refused(session, asked):
    with pytest.raises(UsageError):
        session.stream(PROMPT, **asked)
