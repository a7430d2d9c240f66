"""tokens.json has all that an app needs to make the ids that tokenizer.json makes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from app_tokens import encode
from app_vectors import ADDED, KINDS, LETTERS
from slmkit.app.tokens import LARGEST_ID, Tokens, read_tokens, tokens_of
from slmkit.app.vectors import Vectors
from slmkit.errors import RefusedError

BY_NAME = {path.name: path for path in KINDS}
EXAMPLES = 25  # random texts of each kind
TEXTS = st.lists(st.sampled_from(LETTERS) | st.characters(codec="utf-8"), max_size=30).map("".join)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The library's tokenizer of each kind, with more added tokens, and our tokens of it."""
    found = {}
    for name, folder in BY_NAME.items():
        library, path = Tokenizer.from_file(str(folder / "tokenizer.json")), folder
        library.add_tokens(list(ADDED))
        path = tmp_path_factory.mktemp(name) / "tokenizer.json"
        library.save(str(path))
        found[name] = library, read_tokens(path)
    return found


@pytest.mark.parametrize("name", BY_NAME)
def test_the_vectors_texts_become_their_ids_and_come_back(name):
    tokens = Tokens.model_validate_json((BY_NAME[name] / "tokens.json").read_text("utf-8"))
    vectors = Vectors.model_validate_json((BY_NAME[name] / "vectors.json").read_text("utf-8"))
    for each in vectors.tokenizer:
        assert encode(tokens, each.text) == list(each.ids), each.text
        said = "".join(tokens.texts[at] or "" for at in each.ids).encode("latin-1")
        assert said.decode("utf-8", "replace").removeprefix(tokens.prefix) == each.decoded


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=EXAMPLES, deadline=None)
@given(TEXTS)
def test_random_texts_become_the_library_s_ids(kinds, name, text):
    library, tokens = kinds[name]
    assert encode(tokens, text) == library.encode(text, add_special_tokens=False).ids


def test_tokens_of_another_version_are_refused():
    text = (BY_NAME["home"] / "tokens.json").read_text("utf-8")
    with pytest.raises(ValueError, match="slmkit-app-tokens/1"):
        Tokens.model_validate_json(text.replace("tokens/1", "tokens/2"))


@pytest.mark.parametrize(
    ("kind", "change", "word"),
    [
        ("gemma", lambda model: model["vocab"].pop("\u2581"), "a space"),
        ("home", lambda model: model["merges"].append(["no", "token"]), "damaged"),
        ("home", lambda model: model["vocab"].update(last=LARGEST_ID), "ids"),
        ("home", lambda model: model["vocab"].update(last=-1), "ids"),
        ("home", lambda model: model["vocab"].update(last="x"), "damaged"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused(kind, change, word, tmp_path):
    path = tmp_path / "tokenizer.json"
    values = json.loads((BY_NAME[kind] / "tokenizer.json").read_text("utf-8"))
    change(values["model"])
    path.write_text(json.dumps(values), "utf-8")
    with pytest.raises(RefusedError, match=word):
        read_tokens(path)


def test_a_hole_among_the_ids_has_no_text():
    values = json.loads((BY_NAME["home"] / "tokenizer.json").read_text("utf-8"))
    size = len(tokens_of(values).texts)
    values["added_tokens"].append({"id": size + 1, "content": "<far>"})
    assert tokens_of(values).texts[size:] == (None, "<far>")
