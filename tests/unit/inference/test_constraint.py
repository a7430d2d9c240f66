"""Answers by a JSON schema: only tokens that can become such JSON."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import SlmkitError, UsageError
from slmkit.inference.constraint import json_constraint
from slmkit.inference.load import load
from tiny_tokenizers import KINDS

SCHEMA = {
    "type": "object",
    "properties": {
        "intent": {"enum": ["alarm", "joke"]},
        "level": {"type": "integer", "minimum": 0, "maximum": 9},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["intent", "level", "words"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def session():
    return load(SAMPLE_MODEL)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.0, 3.0]))
def test_every_answer_is_json_of_the_schema(session, seed, temperature):
    answer = session.stream(
        "turn off the lamp", json_schema=SCHEMA, seed=seed, temperature=temperature
    )
    found = json.loads("".join(answer))
    assert answer.finish == "stop"
    jsonschema.validate(found, SCHEMA)


def test_only_what_can_follow_is_allowed(session):
    constraint = json_constraint(session.tokenizer, SCHEMA)
    size = session.tokenizer.vocabulary
    allowed = constraint.allowed(size, [])
    texts = {session.tokenizer.decode([int(each)]) for each in np.flatnonzero(allowed)}
    assert texts and all('{"intent":'.startswith(each) for each in texts)
    logits = np.zeros(size, np.float32)
    assert np.array_equal(np.isfinite(constraint.narrow(logits, [])), allowed)


def test_answers_in_turns_do_not_disturb_each_other(session):
    constraint = json_constraint(session.tokenizer, SCHEMA)
    size = session.tokenizer.vocabulary
    first = int(np.flatnonzero(constraint.allowed(size, []))[0])
    after = constraint.allowed(size, [first])
    assert not np.array_equal(constraint.allowed(size, []), after)
    assert np.array_equal(constraint.allowed(size, [first]), after)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_can_write_json(kind, tmp_path):
    KINDS[kind](tmp_path)
    tokenizer = Tokenizer(tmp_path)
    tokenizer.stop_ids = (1,)
    constraint = json_constraint(tokenizer, {"enum": ["a"]})
    size = tokenizer.size
    answer: list[int] = []
    for _ in range(9):
        following = np.flatnonzero(constraint.allowed(size, answer))
        assert len(following)
        if following.tolist() == [1]:
            break
        answer.append(int(following[0]))
    assert json.loads(tokenizer.decode(answer)) == "a"


@pytest.mark.parametrize(
    "schema", [{"type": "nothing"}, {"$ref": "#/nowhere"}, {"pattern": "(", "type": "string"}]
)
def test_a_schema_that_cannot_be_followed_is_refused(session, schema):
    with pytest.raises(UsageError, match="cannot be followed"):
        session.stream("hi", json_schema=schema)


def test_a_token_that_was_not_allowed_is_an_error(session):
    constraint = json_constraint(session.tokenizer, SCHEMA)
    with pytest.raises(SlmkitError):
        constraint.narrow(np.zeros(1024, np.float32), [session.tokenizer.encode("joke")[-1]])
