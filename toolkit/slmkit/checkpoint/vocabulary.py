"""Token ids against the rows of the model's embedding: which ids have no row, which rows no token.

A tokenizer may know ids that the model has no embedding for: Gemma 3's text models have 262,144
rows, their tokenizer one token more, ``<image_soft_token>``. That is harmless if no text becomes
such an id. A row without a token is padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slmkit.checkpoint.isolated_tokenizer import IsolatedTokenizer
from slmkit.errors import CheckpointError, SlmkitError

RESIZE = (
    "tokenizer and weights are of different models, or the embedding was not resized after tokens "
    "were added: in transformers, model.resize_token_embeddings(len(tokenizer))"
)
PROBE = "a"  # any text: a tokenizer that adds tokens of its own adds them to this one too


def beyond(library: IsolatedTokenizer, vocabulary: int) -> dict[int, str]:
    """The tokens whose ids have no row among ``vocabulary`` rows, by id."""
    tokens = library.get_vocab(with_added_tokens=True)
    return {number: token for token, number in sorted(tokens.items()) if number >= vocabulary}


def padding(library: IsolatedTokenizer, vocabulary: int) -> tuple[int, ...]:
    """The rows that no token has: a model must never emit them."""
    known = set(library.get_vocab(with_added_tokens=True).values())
    return tuple(sorted(set(range(vocabulary)) - known))


def check_vocabulary(
    library: IsolatedTokenizer, vocabulary: int, prompts: Sequence[str]
) -> list[str]:
    """Notices about tokens without a row. Raises CheckpointError if a text can become one.

    ``prompts``: rendered chats, which hold what the chat template writes.
    """
    found = beyond(library, vocabulary)
    if not found:
        return []
    added = library.get_added_tokens_decoder()
    for number, token in found.items():
        if number not in added or not added[number].special:
            raise _refusal(f"the text {token!r}", number, vocabulary)
    for text, special in ((PROBE, True), *((prompt, False) for prompt in prompts)):
        for number in library.encode(text, add_special_tokens=special).ids:
            if number >= vocabulary:
                what = "the tokenizer begins or ends a text with" if special else "the template has"
                raise _refusal(f"{what} {found[number]!r},", number, vocabulary)
    return [_notice(found, vocabulary)]


def refuse_beyond(ids: Sequence[int], tokens: Mapping[int, str], vocabulary: int) -> None:
    """Raise SlmkitError for an id without a row: an artifact would read beside its table."""
    for number in ids:
        if not 0 <= number < vocabulary:
            name = f" ({tokens[number]!r})" if number in tokens else ""
            raise SlmkitError(
                f"token {number}{name} has no embedding: the model knows ids below {vocabulary}",
                "leave that token out of the text",
            )


def _refusal(what: str, number: int, vocabulary: int) -> CheckpointError:
    return CheckpointError(
        f"{what} becomes token {number}, and config.json's vocab_size is {vocabulary}: "
        "the model has no embedding for it",
        RESIZE,
    )


def _notice(found: Mapping[int, str], vocabulary: int) -> str:
    first = min(found)
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return (
        f"the tokenizer's {found[first]!r} (id {first}){others} has no embedding (vocab_size is "
        f"{vocabulary}): a text that spells it out is refused"
    )
