"""config.json with anything in it: a spec that can be recorded, or one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmkit.errors import SlmkitError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import LARGEST, MOST_LAYERS_OR_EXPERTS, Config
from slmkit.models.registry import read_spec
from tiny_models import TINY, tiny_config

WORDS = ["", "auto", "silu", "gelu", "longrope", "llama3", "default", "attention", "mamba", "conv"]
NUMBERS = st.one_of(
    st.integers(-2, 70), st.integers(), st.floats(), st.sampled_from([LARGEST, 10**12, 1e-300])
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=3))
ANYTHING = st.one_of(
    PLAIN, st.lists(PLAIN, max_size=4), st.dictionaries(st.sampled_from(WORDS), PLAIN, max_size=2)
)
GONE = object()


def places(values):
    """The way to every entry, of nested objects too."""
    for key, value in values.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in places(value))


def changed(values, place, value):
    key, *rest = place
    if rest:
        return {**values, key: changed(values[key], rest, value)}
    others = {each: old for each, old in values.items() if each != key}
    return others if value is GONE else {**others, key: value}


@pytest.mark.parametrize("row", TINY)
@settings(max_examples=60)
@given(data=st.data())
def test_one_changed_entry_is_a_spec_or_a_sentence(row, data):
    values = tiny_config(row)
    place = data.draw(st.sampled_from(sorted(places(values))))
    value = data.draw(st.one_of(ANYTHING, st.just(GONE)))
    try:
        summarize(read_spec(Config(changed(values, place, value), "config.json")))
    except SlmkitError as error:
        assert error.message and error.hint


@pytest.mark.parametrize(
    ("row", "key", "most"),
    [
        ("llama", "hidden_size", LARGEST),
        ("gemma3", "head_dim", LARGEST),
        ("llama", "num_hidden_layers", MOST_LAYERS_OR_EXPERTS),
        ("mamba", "num_hidden_layers", MOST_LAYERS_OR_EXPERTS),
        ("olmoe", "num_experts", MOST_LAYERS_OR_EXPERTS),
        ("granite-moe", "num_local_experts", MOST_LAYERS_OR_EXPERTS),
    ],
)
def test_a_number_that_would_fill_the_memory_is_refused(row, key, most):
    config = Config(tiny_config(row, **{key: most + 1}), "config.json")
    with pytest.raises(SlmkitError, match=f"{key} is {most + 1}, expected an integer from 1 to"):
        read_spec(config)
