"""Tokenizers that the apps do not read to the last setting are refused by name."""

from __future__ import annotations

import contextlib
import json
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.app.tokenizer_kinds import Unknown, check_tokenizer, tokenizer_kind
from slmkit.errors import RefusedError
from tiny_tokenizers import write_unigram

VECTORS = Path(__file__).resolve().parents[3] / "sample_apps" / "vectors"
KINDS = {
    path.parent.name: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(VECTORS.glob("*/tokenizer.json"))
}
REMOVED = object()
SMALL = {  # without their tokens, which are most of a file; byte fallback asks for those of bytes
    kind: {**values, "model": {**values["model"], "vocab": {}, "merges": []}}
    for kind, values in KINDS.items()
    if not values["model"]["byte_fallback"]
}
WORDS = (
    "type",
    "content",
    "pattern",
    "Regex",
    "String",
    "normalizers",
    "pretokenizers",
    "decoders",
)
# One change to a file of a kind, and a word of the refusal.
CHANGES = [
    ("gpt2", "model.type", "WordPiece", "WordPiece"),
    ("gpt2", "model.dropout", 0.1, "dropout"),
    ("gpt2", "model.end_of_word_suffix", "</w>", "end_of_word_suffix"),
    ("gpt2", "model.continuing_subword_prefix", "##", "continuing_subword_prefix"),
    ("gpt2", "normalizer", {"type": "NFKC"}, "NFKC"),
    ("gpt2", "decoder", {"type": "Metaspace"}, "Metaspace"),
    ("gpt2", "pre_tokenizer.pretokenizers.1.add_prefix_space", True, "ByteLevel"),
    ("gpt2", "pre_tokenizer.pretokenizers.0.individual_digits", False, "Digits"),
    ("gpt2", "pre_tokenizer", None, "none"),
    ("qwen2", "model", {"type": "BPE", "unk_token": "?", "vocab": {}}, "243 bytes"),
    ("gpt2", "added_tokens.0.single_word", True, "whole word"),
    ("llama3", "pre_tokenizer.pretokenizers.0.pattern.Regex", r"\w+|\W+", "expression"),
    ("llama3", "pre_tokenizer.pretokenizers.0.behavior", "Removed", "expression"),
    ("qwen2", "pre_tokenizer.pretokenizers.0.invert", True, "expression"),
    ("qwen2", "added_tokens.0.normalized", True, "normalized"),
    ("gemma", "normalizer.content", "_", "normalizer is Replace"),
    ("gemma", "pre_tokenizer.behavior", "Isolated", "Split"),
    ("gemma", "decoder.decoders.2", {"type": "Strip"}, "Strip"),
    ("gemma", "model.ignore_merges", True, "ignore_merges"),
    ("gemma", "model.vocab.<0x41>", REMOVED, "1 bytes"),
    ("phi3", "normalizer.normalizers.0.prepend", " ", "Prepend"),
    ("phi3", "pre_tokenizer", {"type": "Metaspace"}, "Metaspace"),
    ("phi3", "decoder.decoders.3.start", 2, "Strip"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_the_vectors_is_read(kind):
    assert tokenizer_kind(KINDS[kind])


@pytest.mark.parametrize(("kind", "key", "value", "word"), CHANGES)
def test_a_setting_that_the_apps_do_not_read_is_refused_by_name(kind, key, value, word):
    with pytest.raises(Unknown, match=word):
        tokenizer_kind(changed(KINDS[kind], key, value))


def test_bytes_that_no_text_has_may_lack_a_token():
    assert tokenizer_kind(changed(KINDS["gemma"], "model.vocab.<0xFF>", REMOVED))


def test_byte_level_bpe_without_an_unknown_token_may_lack_bytes():
    assert "\u0104" not in KINDS["gpt2"]["model"]["vocab"]  # of byte 4, as in SmolLM2
    assert tokenizer_kind(KINDS["gpt2"])


def test_a_unigram_tokenizer_is_refused_with_a_hint(tmp_path):
    write_unigram(tmp_path)
    with pytest.raises(RefusedError, match="Unigram") as told:
        check_tokenizer(tmp_path / "tokenizer.json")
    assert "runtime" in told.value.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=4,
)


@given(st.data())
def test_any_change_of_a_file_is_read_or_refused(tmp_path_factory, data):
    """Never another exception."""
    values = deepcopy(SMALL[data.draw(st.sampled_from(sorted(SMALL)))])
    inner, key = data.draw(st.sampled_from(list(places(values))))
    inner[key] = data.draw(JSON)
    path = tmp_path_factory.mktemp("any") / "tokenizer.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with contextlib.suppress(RefusedError):
        assert "BPE" in check_tokenizer(path)


def places(values):
    """Every place in JSON values, as what holds it and its key or number."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        yield values, key
        if isinstance(value, dict | list):
            yield from places(value)


def changed(values, key, value):
    """A copy with one setting changed; its place is told by keys and numbers."""
    values = deepcopy(values)
    inner = values
    *path, last = key.split(".")
    for name in path:
        inner = inner[int(name)] if isinstance(inner, list) else inner[name]
    if value is REMOVED:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    return values
