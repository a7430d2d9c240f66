"""The ``tokenizers`` library in a worker process, and templates rendered there: both read what
strangers wrote, and may hang, fill the memory or crash.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from slmkit.errors import CheckpointError, SlmkitError
from slmkit.system.limited_worker import WORKER, LimitExceeded, Limits
from slmkit.system.plain_files import check_plain

HERE = "slmkit.checkpoint.tokenizer_worker"
LARGEST_FILE = 1 << 29  # bytes of a tokenizer.json; the largest vocabularies have 40 MB
LONGEST_PROMPT = 1 << 22  # characters that a template may write, beyond ten times what it was given
LONGEST_TEMPLATE = 1 << 20  # characters; the longest that are in use have 30 thousand
SECONDS = 10  # of computing, for what is not large
DAMAGED = "download the file again"


@dataclass(frozen=True)
class Encoded:
    """The token ids of a text, as the library's ``Encoding`` has them."""

    ids: list[int]


@dataclass(frozen=True)
class AddedToken:
    """A token beyond the vocabulary of the tokenizer's algorithm."""

    content: str
    special: bool


class IsolatedTokenizer:
    """The methods of the library's ``Tokenizer`` that slmkit needs, under the same names.

    Raises CheckpointError for a file that cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.bytes = check_plain(path, LARGEST_FILE)
        except OSError as error:
            raise CheckpointError(f"tokenizer.json cannot be read: {error}", DAMAGED) from None
        self.stamp = _stamp(path)
        self._call("opened", "tokenizer.json cannot be read")

    def encode(self, text: str, add_special_tokens: bool = True) -> Encoded:
        """Token ids of a text. Raises SlmkitError for half of a surrogate pair in it."""
        check_unicode(text)
        about = "the tokenizer cannot encode the text"
        return Encoded(self._call("encode", about, text, add_special_tokens, size=len(text)))

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids."""
        about = "the tokenizer cannot decode the tokens"
        numbers = list(map(int, ids))
        text: str = self._call("decode", about, numbers, skip_special_tokens, size=len(numbers))
        return text

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        """Number of tokens."""
        return int(self._call("size", "the tokenizer failed", with_added_tokens))

    def get_vocab(self, with_added_tokens: bool = True) -> dict[str, int]:
        """All tokens with their ids."""
        found: dict[str, int] = self._call("vocabulary", "the tokenizer failed", with_added_tokens)
        return found

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Added tokens by id."""
        return self._added

    def token_to_id(self, token: str) -> int | None:
        """The id of a token; None if there is none."""
        number: int | None = self._call("token_to_id", "the tokenizer failed", token)
        return number

    def id_to_token(self, number: int) -> str | None:
        """The token of an id; None if there is none."""
        token: str | None = self._call("id_to_token", "the tokenizer failed", number)
        return token

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """The tokens that stand for single bytes of characters without a token (byte fallback)."""
        return frozenset(self._call("byte_ids", "the tokenizer failed"))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The special tokens, which decoding leaves out."""
        return frozenset(number for number, token in self._added.items() if token.special)

    @cached_property
    def _added(self) -> dict[int, AddedToken]:
        found = self._call("added_tokens", "the tokenizer failed")
        return {number: AddedToken(content, special) for number, content, special in found}

    def _call(self, name: str, about: str, *arguments: Any, size: int = 0) -> Any:
        """``size``: characters or tokens of the arguments, from which time and memory follow."""
        limits = Limits(
            SECONDS + self.bytes // 10**6 + size // 50_000, 10**9 + 40 * self.bytes + 1000 * size
        )
        try:
            where = [str(self.path.absolute()), self.stamp]
            return WORKER.call(f"{HERE}:{name}", [where, *arguments], limits)
        except LimitExceeded as error:
            raise CheckpointError(f"{about}: {error}", DAMAGED) from None


def check_unicode(text: str) -> None:
    """Raise SlmkitError for half of a surrogate pair: of bytes that are no UTF-8, or of JSON."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SlmkitError(
            f"the text is not Unicode: character {error.start + 1} is half of one",
            "give it in UTF-8",
        ) from None


def rendered(template: str, values: Mapping[str, Any], day: datetime | None = None) -> str:
    """A chat template with its values, rendered in the worker. Raises CheckpointError.

    ``day``: what strftime_now tells; None: the clock.
    """
    if len(template) > LONGEST_TEMPLATE:
        raise CheckpointError(
            f"the chat template has {len(template)} characters, more than {LONGEST_TEMPLATE}",
            DAMAGED,
        )
    longest = LONGEST_PROMPT + 10 * len(str(values))
    limits = Limits(SECONDS, 10**9 + 100 * longest)
    arguments = [template, dict(values), longest, day.isoformat() if day else None]
    try:
        text: str = WORKER.call(f"{HERE}:render", arguments, limits)
    except LimitExceeded as error:
        raise CheckpointError(
            f"the chat template failed: {error}",
            "the template may refuse this order of roles; try a single user message",
        ) from None
    return text


def _stamp(path: Path) -> list[int]:
    """Changes when a file does."""
    facts = os.stat(path)
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]
