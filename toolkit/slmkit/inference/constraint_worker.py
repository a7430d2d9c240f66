"""In the worker process: which tokens may follow, by llguidance. Called by ``constraint`` alone."""

from __future__ import annotations

import base64
import os
from collections import OrderedDict
from typing import Any

from llguidance import LLMatcher, LLTokenizer

KEPT = 4  # answers that are followed at once, and tokenizers that stay open
Where = list[Any]  # the path of a tokenizer.json, its stamp, and the ids that end an answer
_tokenizers: OrderedDict[str, LLTokenizer] = OrderedDict()
_matchers: OrderedDict[str, tuple[LLMatcher, list[int]]] = OrderedDict()


def allowed(where: Where, schema: str, answer: list[int]) -> str:
    """A bit for each id, the first in the lowest bit of the first byte, in base64.

    Raises ValueError for a schema that is not supported, or tokens that do not follow it.
    """
    key = repr((where, schema))
    matcher, seen = _matchers.pop(key, (None, []))
    if matcher is None or answer[: len(seen)] != seen:
        matcher, seen = _matcher(where, schema), []
    matcher.consume_tokens(answer[len(seen) :])
    mask: bytes = matcher.compute_bitmask()
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    _keep(_matchers, key, (matcher, list(answer)))
    return base64.b64encode(mask).decode()


def _matcher(where: Where, schema: str) -> LLMatcher:
    path, stamp, stop = where
    key = repr(where)
    if key not in _tokenizers:
        facts = os.stat(path)
        if [facts.st_size, facts.st_mtime_ns, facts.st_ino] != stamp:
            raise ValueError("tokenizer.json was changed while it was in use")
        _keep(_tokenizers, key, LLTokenizer(path, eos_token=stop))
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
    matcher = LLMatcher(_tokenizers[key], grammar, log_level=0)
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    return matcher


def _keep(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    if len(kept) > KEPT:
        kept.popitem(last=False)
