"""Public tokenizers: opened, told apart, and without loss."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optional_data import TOKENIZERS, needs, path_of
from slmkit.backend.interface import TokenFacts
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.inference.generate import stream_text
from slmkit_mlc.chat_config import tokenizer_info
from slmkit_mlc.conversation import EXACT, NO_SYSTEM, conversation

METHODS = {"phi3": "byte_fallback", "gptneox": "byte_level"}
EACH = [pytest.param(name, marks=needs(place)) for name, place in TOKENIZERS.items()]


@pytest.fixture(scope="module")
def gptneox() -> Tokenizer:
    """A byte-level tokenizer of 50 thousand tokens."""
    return Tokenizer(path_of(TOKENIZERS["gptneox"]))


@pytest.mark.parametrize("name", EACH)
def test_real_tokenizers_open(name: str, tmp_path: Path) -> None:
    copy = shutil.copytree(path_of(TOKENIZERS[name]), tmp_path / name)
    tokenizer = Tokenizer(copy)
    assert tokenizer.decode(tokenizer.encode("Hello, world", special=False)) == "Hello, world"


@pytest.mark.parametrize("name", EACH)
def test_mlc_s_form_of_real_tokenizers(name: str) -> None:
    folder = path_of(TOKENIZERS[name])
    tokenizer = Tokenizer(folder)
    chat = tokenizer.chat if tokenizer.template else None
    files = tuple(sorted(folder.iterdir()))
    facts = TokenFacts(None, (), None, files, tokenizer.template, chat)
    assert conversation(facts)[1] in (EXACT, NO_SYSTEM)
    assert tokenizer_info(facts)["token_postproc_method"] == METHODS[name]


@needs(TOKENIZERS["gptneox"])
@given(text=st.text(max_size=60))
def test_a_text_survives_but_for_what_the_normalizer_does(gptneox: Tokenizer, text: str) -> None:
    ids = gptneox.encode(text, special=False)
    assert gptneox.decode(ids) == unicodedata.normalize("NFC", text)
    assert "".join(stream_text(gptneox, iter(ids))) == gptneox.decode(ids)
