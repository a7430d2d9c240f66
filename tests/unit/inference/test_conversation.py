"""Conversations: what is read again, what is forgotten, what was said when it is stopped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.errors import SlmkitError, UsageError
from slmkit.inference.continued import ContinuedRunner
from slmkit.inference.conversation import Conversation
from slmkit.inference.load import load

FIRST, SECOND = "turn off the kitchen lights at 7 pm", "set a timer for ten minutes"


@pytest.fixture(scope="module")
def session():
    return load(SAMPLE_MODEL)


class Counted:
    """A runner without a way back, that counts what it reads."""

    def __init__(self, runner):
        self.runner, self.read = runner, 0
        self.context_length, self.runtime, self.taps = runner.context_length, "a test", {}

    def reset(self):
        self.runner.reset()

    def feed(self, ids):
        self.read += len(ids)
        return self.runner.feed(ids)


@pytest.mark.parametrize("rewindable", [True, False])
def test_the_next_question_sees_the_whole_conversation_and_reads_only_what_is_new(
    session, rewindable
):
    runner = session.runner if rewindable else Counted(session.runner)
    talk = Conversation(replace(session, runner=runner))
    first = "".join(talk.ask(FIRST))
    turn = talk.ask(SECOND)
    second = "".join(turn)
    said = [
        {"role": "user", "content": FIRST},
        {"role": "assistant", "content": first},
        {"role": "user", "content": SECOND},
    ]
    assert second == session.generate(said)
    assert talk.messages == [*said, {"role": "assistant", "content": second}]
    assert turn.answer.statistics.reused_tokens > len(session.prompt_ids(FIRST))


def test_a_prompt_that_leaves_what_is_held_goes_back_to_the_last_prompt(session):
    runner = ContinuedRunner(session.runner)
    again = replace(session, runner=runner)
    ids = session.prompt_ids(FIRST)
    list(again.stream(FIRST))
    assert runner.resume([*ids, 5, 6]) == len(ids)
    logits = runner.feed(np.asarray([5, 6]))
    np.testing.assert_allclose(logits[-1], session.logits([*ids, 5, 6])[-1], atol=1e-4)
    assert runner.resume([1, 2, 3]) == 0 and runner.ids == []


def test_an_interrupted_feed_is_not_gone_on_from(session):
    class Interrupted(Counted):
        def feed(self, ids):
            raise KeyboardInterrupt

    runner = ContinuedRunner(Interrupted(session.runner))
    with pytest.raises(KeyboardInterrupt):
        runner.feed(np.asarray([1, 2]))
    assert runner.resume([1, 2, 3]) == 0


def test_a_stopped_answer_is_what_was_said(session):
    talk = Conversation(session)
    turn = talk.ask(FIRST)
    piece = next(turn)
    turn.close()
    turn.close()
    assert talk.messages[-1] == {"role": "assistant", "content": piece}
    assert len(talk.messages) == 2


def test_the_oldest_messages_are_forgotten_when_the_context_is_full(session):
    talk = Conversation(session)
    sizes = []
    for _ in range(16):
        turn = talk.ask(SECOND, max_tokens=8)
        list(turn)
        sizes.append(turn.answer.statistics.prompt_tokens)
    context = session.runner.context_length
    assert max(sizes) <= context - context // 4
    assert talk.forgotten > 0 and talk.forgotten % 2 == 0
    assert talk.messages[0]["role"] == "user" and len(talk.messages) + talk.forgotten == 32
    talk.reset()
    assert talk.messages == [] and talk.forgotten == 0


def test_a_question_beyond_the_context_is_refused_and_nothing_is_lost(session):
    talk = Conversation(session)
    list(talk.ask(SECOND))
    before = list(talk.messages)
    with pytest.raises(SlmkitError, match="tokens, the context"):
        talk.ask("word " * 500)
    assert talk.messages == before


def test_without_a_chat_template_there_is_no_conversation(session):
    with pytest.raises(UsageError, match="no chat template"):
        Conversation(replace(session, tokenizer=session.tokenizer.with_template(None)))
