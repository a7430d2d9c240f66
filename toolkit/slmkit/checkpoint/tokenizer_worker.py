"""In the worker process: the ``tokenizers`` library, and chat templates. Called by
``isolated_tokenizer`` alone."""

from __future__ import annotations

import os
from collections import OrderedDict
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template
from tokenizers import Tokenizer

from slmkit.checkpoint.tokenizer import template_environment

KEPT = 8  # tokenizers and templates that stay open
Where = list[Any]  # the path of a tokenizer.json, and its stamp
_open: OrderedDict[tuple[Any, ...], Tokenizer] = OrderedDict()


def opened(where: Where) -> None:
    """Open a tokenizer."""
    _tokenizer(where)


def encode(where: Where, text: str, special: bool) -> list[int]:
    """Token ids of a text."""
    ids: list[int] = _tokenizer(where).encode(text, add_special_tokens=special).ids
    return ids


def decode(where: Where, ids: list[int], skip_special: bool) -> str:
    """Text of token ids."""
    text: str = _tokenizer(where).decode(ids, skip_special_tokens=skip_special)
    return text


def size(where: Where, with_added: bool) -> int:
    """Number of tokens."""
    return int(_tokenizer(where).get_vocab_size(with_added_tokens=with_added))


def vocabulary(where: Where, with_added: bool) -> dict[str, int]:
    """All tokens with their ids."""
    found: dict[str, int] = _tokenizer(where).get_vocab(with_added_tokens=with_added)
    return found


def added_tokens(where: Where) -> list[tuple[int, str, bool]]:
    """Of each added token its id, its text, and whether it is a special one."""
    found = _tokenizer(where).get_added_tokens_decoder()
    return [(number, token.content, token.special) for number, token in found.items()]


def byte_ids(where: Where) -> list[int]:
    """The ids of the tokens that stand for a byte."""
    library = _tokenizer(where)
    found = (library.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return [number for number in found if number is not None]


def token_to_id(where: Where, token: str) -> int | None:
    """The id of a token."""
    number: int | None = _tokenizer(where).token_to_id(token)
    return number


def id_to_token(where: Where, number: int) -> str | None:
    """The token of an id."""
    token: str | None = _tokenizer(where).id_to_token(number)
    return token


def render(template: str, values: dict[str, Any], longest: int, day: str | None) -> str:
    """A chat template's text. Raises whatever the template does."""
    pieces, length = list[str](), 0
    for piece in _compiled(template, day).generate(**values):
        length += len(piece)
        if length > longest:
            raise ValueError(f"it writes more than {longest} characters")
        pieces.append(piece)
    text = "".join(pieces)
    text.encode()  # raises for half of a surrogate pair, which is no text
    return text


@lru_cache(maxsize=KEPT)
def _compiled(template: str, day: str | None) -> Template:
    clock = datetime.fromisoformat(day) if day else None
    return template_environment(clock).from_string(template)


def _tokenizer(where: Where) -> Tokenizer:
    """Out of those that are open, or opened now."""
    path, stamp = where
    key = (path, *stamp)
    if key not in _open:
        facts = os.stat(path)
        if [facts.st_size, facts.st_mtime_ns, facts.st_ino] != stamp:
            raise ValueError("tokenizer.json was changed while it was in use")
        library = Tokenizer.from_file(path)
        library.no_truncation()
        library.no_padding()
        _open[key] = library
        if len(_open) > KEPT:
            _open.popitem(last=False)
    _open.move_to_end(key)
    return _open[key]
