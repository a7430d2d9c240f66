"""The tokenizer's files as an artifact ships them: no text becomes an id that the model lacks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
ADDED = "added_tokens_decoder"  # of tokenizer_config.json: added tokens by their ids as text


def ship_file(path: Path, folder: Path, vocabulary: int) -> None:
    """Write a file of the tokenizer into ``folder``: as it is, but for tokens without a row.

    ``vocabulary``: rows of the model's embedding. A token beyond them, such as Gemma 3's
    ``<image_soft_token>``, is left out: a runtime then reads its name as any other text.
    """
    text = _without_beyond(path, vocabulary) if path.name in (TOKENIZER, SETTINGS) else None
    if text is None:
        shutil.copyfile(path, folder / path.name)
    else:
        (folder / path.name).write_text(text, encoding="utf-8")


def within(values: dict[str, Any], vocabulary: int) -> bool:
    """Take added tokens beyond ``vocabulary`` out of a tokenizer.json's content. True if any."""
    added = values.get("added_tokens") or []
    lost = {each["content"] for each in added if each["id"] >= vocabulary}
    if not lost:
        return False
    values["added_tokens"] = [each for each in added if each["content"] not in lost]
    vocab = values["model"]["vocab"]
    if isinstance(vocab, dict):
        values["model"]["vocab"] = {
            token: each for token, each in vocab.items() if token not in lost
        }
    return True


def _without_beyond(path: Path, vocabulary: int) -> str | None:
    """The file's text without tokens beyond ``vocabulary``; None if it has none."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if path.name == TOKENIZER:
        return json.dumps(values, ensure_ascii=False) if within(values, vocabulary) else None
    if not added_within(values, vocabulary):
        return None
    return json.dumps(values, ensure_ascii=False, indent=2)


def added_within(values: dict[str, Any], vocabulary: int) -> bool:
    """Take added tokens beyond ``vocabulary`` out of a tokenizer_config.json's content. True if
    any."""
    added = values.get(ADDED)
    if not isinstance(added, dict) or all(int(number) < vocabulary for number in added):
        return False
    values[ADDED] = {number: each for number, each in added.items() if int(number) < vocabulary}
    return True
