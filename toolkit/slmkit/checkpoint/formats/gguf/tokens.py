"""A tokenizer's files as metadata of a GGUF file: the inverse of ``tokenizer``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from slmkit.checkpoint.formats.gguf.pre_tokenizers import CUTS, Cut
from slmkit.checkpoint.formats.gguf.vocabulary import CONTROL, UNKNOWN, UNUSED, USER_DEFINED
from slmkit.errors import RefusedError

BYTE = 6
LEAVE = "llama.cpp would cut text differently; other artifacts are not affected"
DEFAULTS = {"trim_offsets": True, "use_regex": True, "invert": False, "add_prefix_space": False}
Values = dict[str, Any]


def tokens_of(
    tokenizer: Values, special: Mapping[str, str], vocabulary: int, adds_bos: bool
) -> Values:
    """Metadata, keys with their prefix.

    ``tokenizer``: the content of tokenizer.json; ``special``: tokens by role; ``vocabulary``: rows
    of the embedding. Raises RefusedError for an algorithm or pre-tokenizer without a name there.
    """
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise RefusedError(f"a tokenizer of type {model.get('type')} is not written as GGUF", LEAVE)
    own = _sentencepiece(model) if model.get("byte_fallback") else _byte_level(tokenizer)
    tokens, types = _tokens(tokenizer, vocabulary)
    ids = {token: number for number, token in enumerate(tokens)}
    if "scores" in own:
        found = own.pop("scores")
        own["tokenizer.ggml.scores"] = [found.get(token, 0.0) for token in tokens]
        own["tokenizer.ggml.add_space_prefix"] = _prefixed(tokenizer["normalizer"])
    values = {
        **own,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_bos_token": adds_bos,
        "tokenizer.ggml.add_eos_token": False,
    }
    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    for role, name in roles.items():
        if special.get(role) in ids:
            values[f"tokenizer.ggml.{name}_token_id"] = ids[special[role]]
    return values


def _byte_level(tokenizer: Values) -> Values:
    model = tokenizer["model"]
    found = [name for name, cut in CUTS.items() if _same(cut, tokenizer)]
    if not found:
        raise RefusedError("the tokenizer cuts text in a way that has no name in GGUF", LEAVE)
    merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": found[0],
        "tokenizer.ggml.merges": merges,
    }


def _same(cut: Cut, tokenizer: Values) -> bool:
    whole = bool(tokenizer["model"].get("ignore_merges"))
    steps = _plain(tokenizer["pre_tokenizer"])
    normalizer = tokenizer["normalizer"]
    # llama.cpp does not normalize: a tokenizer with NFC is another one for text that is not in it.
    fits = normalizer is None or (cut.nfc and normalizer == {"type": "NFC"})
    return steps == _plain(cut.steps) and whole == cut.whole_words and fits


def _plain(step: Any) -> Any:
    """A pre-tokenizer without keys that have their default."""
    if isinstance(step, dict):
        if step.get("type") == "Sequence" and len(step["pretokenizers"]) == 1:
            return _plain(step["pretokenizers"][0])
        return {
            key: _plain(value)
            for key, value in step.items()
            if DEFAULTS.get(key) != value or key == "type"
        }
    return [_plain(each) for each in step] if isinstance(step, list) else step


def _sentencepiece(model: Values) -> Values:
    """Scores: the rank of the first merge that makes a token, as llama.cpp takes the best score."""
    scores: dict[str, float] = {}
    for rank, pair in enumerate(model["merges"]):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        if left + right not in scores:
            scores[left + right] = -float(rank)
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "scores": scores}


def _prefixed(normalizer: Any) -> bool:
    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    return any(each.get("type") == "Prepend" for each in steps)


def _tokens(tokenizer: Values, vocabulary: int) -> tuple[list[str], list[int]]:
    """All tokens by id, and their types; ids without a token get a name that no text has."""
    tokens = [f"[PAD{number}]" for number in range(vocabulary)]
    types, unknown = [UNUSED] * vocabulary, tokenizer["model"].get("unk_token")
    for token, number in tokenizer["model"]["vocab"].items():
        if number < vocabulary:
            is_byte = re.fullmatch(r"<0x[0-9A-F]{2}>", token)
            tokens[number], types[number] = token, BYTE if is_byte else 1
    for each in tokenizer["added_tokens"]:
        if each["id"] < vocabulary:
            kind = CONTROL if each["special"] else USER_DEFINED
            kind = UNKNOWN if each["content"] == unknown else kind
            tokens[each["id"]], types[each["id"]] = each["content"], kind
    return tokens, types
