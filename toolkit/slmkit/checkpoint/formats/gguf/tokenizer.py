"""The tokenizer's files of a checkpoint from the metadata of a GGUF file.

Two kinds are read: SentencePiece's BPE (``llama``), whose merges follow from the tokens' scores,
and byte-level BPE (``gpt2``), whose pre-tokenizer has a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slmkit.checkpoint.formats.gguf.pre_tokenizers import CUTS, LEVEL, Cut
from slmkit.checkpoint.formats.gguf.vocabulary import (
    BESIDE,
    SPACE,
    UNKNOWN,
    Values,
    Vocabulary,
    generation_of,
    numbers_of,
    settings_of,
)
from slmkit.errors import CheckpointError
from slmkit.models.config import Config

LONGEST_TOKEN = 256  # characters of one that others become; real ones have up to some 30


def tokenizer_of(metadata: Config) -> tuple[Values, Values, Values]:
    """tokenizer.json, tokenizer_config.json and generation_config.json. Raises CheckpointError."""
    vocabulary = Vocabulary(metadata)
    if vocabulary.kind == "llama":
        tokenizer, cut = _sentencepiece(vocabulary), None
    elif vocabulary.kind == "gpt2":
        cut = _cut(metadata)
        tokenizer = _byte_level(vocabulary, cut)
    else:
        raise CheckpointError(
            f"{metadata.where}: tokenizer.ggml.model is {vocabulary.kind!r}; llama and gpt2 "
            "are read",
            BESIDE,
        )
    tokenizer["post_processor"] = _around(vocabulary, cut is None or cut.bos)
    settings = "LlamaTokenizer" if cut is None else cut.settings
    if cut is None and metadata.string("general.architecture").startswith("gemma"):
        settings = "GemmaTokenizer"
    return tokenizer, settings_of(vocabulary, settings), generation_of(vocabulary)


def _cut(metadata: Config) -> Cut:
    name = metadata.string("tokenizer.ggml.pre", "default")
    if name not in CUTS:
        raise CheckpointError(
            f"{metadata.where}: the pre-tokenizer {name!r} is not known; known: "
            f"{', '.join(sorted(CUTS))}",
            BESIDE,
        )
    return CUTS[name]


def _byte_level(vocabulary: Vocabulary, cut: Cut) -> Values:
    merges = [tuple(each.split(" ")) for each in _merges(vocabulary.metadata)]
    if any(len(pair) != 2 for pair in merges):
        raise CheckpointError(
            f"{vocabulary.metadata.where}: tokenizer.ggml.merges holds no pairs", BESIDE
        )
    model = _bpe(vocabulary, [list(pair) for pair in merges])
    model["ignore_merges"] = cut.whole_words
    return _file(
        vocabulary,
        {"type": "NFC"} if cut.nfc else None,
        cut.steps,
        {**LEVEL, "use_regex": True},
        model,
    )


def _merges(metadata: Config) -> list[str]:
    return metadata.strings("tokenizer.ggml.merges")


def _sentencepiece(vocabulary: Vocabulary) -> Values:
    metadata = vocabulary.metadata
    count = len(vocabulary.tokens)
    scores = numbers_of(metadata, "tokenizer.ggml.scores", count, None)
    model = _bpe(vocabulary, _merges_of(vocabulary, scores))
    model |= {"byte_fallback": True, "fuse_unk": True, "unk_token": vocabulary.token("unknown")}
    if model["unk_token"] is None and UNKNOWN in vocabulary.types:
        model["unk_token"] = vocabulary.tokens[vocabulary.types.index(UNKNOWN)]
    spaces: list[Values] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if not vocabulary.flag("space_prefix", True):
        split = {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        }
        decoder = {"type": "Sequence", "decoders": spaces}
        return _file(vocabulary, replace, split, decoder, model)
    prepend = {"type": "Prepend", "prepend": SPACE}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return _file(
        vocabulary,
        {"type": "Sequence", "normalizers": [prepend, replace]},
        None,
        {"type": "Sequence", "decoders": [*spaces, strip]},
        model,
    )


def _merges_of(vocabulary: Vocabulary, scores: Sequence[float]) -> list[list[str]]:
    """Each token that is two others together, the best score first."""
    ids, types = vocabulary.ids, vocabulary.types
    normal = {token for token, number in ids.items() if types[number] == 1}
    longest = max(map(len, normal), default=0)
    if longest > LONGEST_TOKEN:
        raise CheckpointError(
            f"{vocabulary.metadata.where}: a token has {longest} characters; at most "
            f"{LONGEST_TOKEN} are read",
            BESIDE,
        )
    found = []
    for token in normal:
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in normal and right in normal:
                found.append((-scores[ids[token]], ids[left], ids[right]))
    return [[vocabulary.tokens[left], vocabulary.tokens[right]] for _, left, right in sorted(found)]


def _bpe(vocabulary: Vocabulary, merges: list[list[str]]) -> Values:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary.ids,
        "merges": merges,
    }


def _file(
    vocabulary: Vocabulary, normalizer: Any, pre_tokenizer: Any, decoder: Any, model: Values
) -> Values:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def _around(vocabulary: Vocabulary, bos: bool) -> Values | None:
    """The tokens that are put before and after a text."""
    wanted = {
        "bos": vocabulary.flag("bos_token", bos),
        "eos": vocabulary.flag("eos_token", False),
    }
    found = {role: vocabulary.token(role) for role in wanted if wanted[role]}
    names = {role: token for role, token in found.items() if token is not None}
    if not names:
        return None
    single = [_special(names["bos"])] if "bos" in names else []
    single.append({"Sequence": {"id": "A", "type_id": 0}})
    single += [_special(names["eos"])] if "eos" in names else []
    second = [{key: {**each, "type_id": 1} for key, each in step.items()} for step in single]
    for step in second:
        if "Sequence" in step:
            step["Sequence"]["id"] = "B"
    tokens = {
        token: {"id": token, "ids": [vocabulary.ids[token]], "tokens": [token]}
        for token in names.values()
    }
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *second],
        "special_tokens": tokens,
    }


def _special(token: str) -> Values:
    return {"SpecialToken": {"id": token, "type_id": 0}}
