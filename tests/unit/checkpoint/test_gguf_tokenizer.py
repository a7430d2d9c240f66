"""The tokenizer of a GGUF file is that of the checkpoint which the file was made of."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from slmkit.checkpoint.formats.gguf.pre_tokenizers import CUTS
from slmkit.checkpoint.formats.gguf.tokenizer import LONGEST_TOKEN, tokenizer_of
from slmkit.checkpoint.formats.gguf.tokens import tokens_of
from slmkit.errors import CheckpointError, RefusedError
from slmkit.models.config import Config
from tiny_tokenizers import KINDS

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
TEXTS = [
    "Turn off the kitchen lights!",
    "  two  spaces\n\n and\tmore ",
    "12345 678 don't DON'T x_y=3;",
    "naïve 日本語 🙂",
    "<s>is text</s>",
    "",
]


def round_trip(content, vocabulary, bos=False, **more):
    """tokenizer.json -> metadata -> tokenizer.json, in the library."""
    metadata = {
        **tokens_of(content, SPECIAL, vocabulary, bos),
        "general.architecture": "llama",
        **more,
    }
    found, _, _ = tokenizer_of(Config(metadata, "metadata of x.gguf"))
    return Library.from_str(json.dumps(found))


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback"])
def test_ids_and_text_are_the_same(tmp_path, kind):
    KINDS[kind](tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    original = Library.from_file(str(tmp_path / "tokenizer.json"))
    size = original.get_vocab_size(with_added_tokens=True)
    bos = original.encode("a").ids[0] == original.token_to_id("<s>")
    found = round_trip(content, size, bos)
    for text in TEXTS:
        ids = original.encode(text).ids
        assert found.encode(text).ids == ids, text
        assert found.decode(ids) == original.decode(ids), text


def test_a_unigram_is_refused_by_name(tmp_path):
    KINDS["unigram"](tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    with pytest.raises(RefusedError, match="type Unigram"):
        tokens_of(content, SPECIAL, 500, False)


@pytest.mark.parametrize("name", sorted(CUTS))
def test_a_pre_tokenizer_comes_back_by_its_name_or_an_equal_one(name):
    cut = CUTS[name]
    alphabet = {each: at for at, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    library = Library(models.BPE(alphabet, [], ignore_merges=cut.whole_words))
    library.decoder = decoders.ByteLevel()
    content = json.loads(library.to_str())
    content["pre_tokenizer"] = cut.steps
    content["normalizer"] = {"type": "NFC"} if cut.nfc else None
    found = tokens_of(content, {}, 256, False)
    assert CUTS[found["tokenizer.ggml.pre"]].steps == cut.steps
    Library.from_str(json.dumps(content))  # the library knows the pattern
    again = round_trip(content, 256)
    original = Library.from_str(json.dumps(content))
    for text in TEXTS:
        assert again.encode(text).ids == original.encode(text).ids


def test_a_pre_tokenizer_without_a_name_is_refused():
    alphabet = {each: at for at, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    library = Library(models.BPE(alphabet, []))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(RefusedError, match="no name in GGUF"):
        tokens_of(json.loads(library.to_str()), {}, 256, False)


LLAMA = {"tokenizer.ggml.model": "llama", "general.architecture": "llama"}
LISTS = {"tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.scores": [0.0, -1.0]}
WRONG = {
    "no tokens": ({}, "tokens is missing"),
    "fewer scores": ({**LISTS, "tokenizer.ggml.scores": [0.0]}, "no list of 2 numbers"),
    "an end beyond the tokens": (
        {**LISTS, "tokenizer.ggml.eos_token_id": 2},
        "eos_token_id is 2, expected an integer from 0 to 1",
    ),
    "a long token": (
        {**LISTS, "tokenizer.ggml.tokens": ["a" * (LONGEST_TOKEN + 1), "b"]},
        "a token has 257 characters",
    ),
    "another kind": ({**LISTS, "tokenizer.ggml.model": "rwkv"}, "'rwkv'; llama and gpt2"),
    "an unknown name": (
        {**LISTS, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "new"},
        "pre-tokenizer 'new' is not known",
    ),
}


@pytest.mark.parametrize(("values", "sentence"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_together_is_told(values, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        tokenizer_of(Config({**LLAMA, **values}, "metadata of x.gguf"))


def test_chat_templates_and_ends_of_turns_are_read():
    more = {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.chat_template.tool_use": "tools",
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 1,
        "general.sampling.temp": 0.6,
    }
    _, settings, generation = tokenizer_of(Config({**LLAMA, **LISTS, **more}, "x"))
    assert [each["name"] for each in settings["chat_template"]] == ["default", "tool_use"]
    assert generation == {"eos_token_id": [0, 1], "temperature": 0.6, "do_sample": True}
