"""How the model's author says that it generates: generation_config.json, and where answers end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit.checkpoint.isolated_tokenizer import IsolatedTokenizer
from slmkit.errors import CheckpointError
from slmkit.models.config import LARGEST, Config, read_json

FILE = "generation_config.json"
TOP_K = 50  # of transformers 4 and 5, where the author samples and names no top_k
QUESTION, ANSWER = "Which day is it", "It is Monday"
EXAMPLES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": QUESTION}],
    [{"role": "system", "content": ANSWER}, {"role": "user", "content": QUESTION}],
    [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}],
)
Render = Callable[[Sequence[Mapping[str, Any]], bool], str | None]


@dataclass(frozen=True)
class Generation:
    """Settings of generation, by the names of generation_config.json."""

    do_sample: bool = False  # False: the best token is taken
    temperature: float = 1.0
    top_p: float = 1.0  # share of probability to sample from
    top_k: int = 0  # tokens to sample from; 0: all
    repetition_penalty: float = 1.0  # on tokens that the sequence holds already
    by_author: bool = False  # False: the author said nothing about them


@dataclass(frozen=True)
class AuthorFacts:
    """All that the files beside the weights say about generation."""

    settings: Generation
    stop_ids: tuple[int, ...]  # empty: they name none


def read_generation(folder: Path) -> AuthorFacts:
    """Read generation_config.json, and config.json for stop ids. Raises CheckpointError."""
    values = _optional(folder / FILE)
    return AuthorFacts(_settings(Config(values, FILE)), _stop_ids(folder, values))


def turn_end(library: IsolatedTokenizer, render: Render) -> int | None:
    """The id of the added token that a chat template writes directly after an answer, if it does.

    ``render``: the template; None where it refuses the messages.
    """
    text = render(EXAMPLES[-1], False)
    _, found, rest = (text or "").partition(ANSWER)
    ids = library.encode(rest.lstrip(), add_special_tokens=False).ids if found else []
    return ids[0] if ids and ids[0] in library.get_added_tokens_decoder() else None


def stop_notices(
    library: IsolatedTokenizer,
    stated: Sequence[int],
    added: Sequence[int],
    vocabulary: int,
) -> list[str]:
    """Sentences for a user about the stop ids: ``added`` are those that no file names."""
    notices = [
        f"the chat template ends an answer with {library.id_to_token(number)!r} (id {number}), "
        f"which is no stop id of the files ({', '.join(map(str, stated)) or 'they name none'}): "
        "it is one of the bundle"
        for number in added
    ]
    lost = [number for number in stated if number >= vocabulary]
    if lost:
        notices.append(
            f"eos_token_id {', '.join(map(str, lost))} is beyond vocab_size {vocabulary}: "
            "the model cannot emit it, and the bundle does not name it"
        )
    return notices


def _settings(config: Config) -> Generation:
    """As transformers reads them: without ``do_sample``, the sampler's settings do nothing."""
    said = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty")
    if not any(config.has(key) for key in said):
        return Generation()
    penalty = config.number("repetition_penalty", 1.0)
    sample = config.boolean("do_sample", False)
    if not sample or config.values.get("temperature") == 0:
        return Generation(repetition_penalty=penalty, by_author=True)
    return Generation(
        do_sample=True,
        temperature=config.number("temperature", 1.0),
        top_p=_share(config),
        top_k=config.integer("top_k", TOP_K, least=0),
        repetition_penalty=penalty,
        by_author=True,
    )


def _share(config: Config) -> float:
    value = config.number("top_p", 1.0)
    if value > 1:
        raise CheckpointError(
            f"{FILE}: top_p is {value:g}, expected a share of probability, 0 to 1",
            "compare the file with the one that the model's author published",
        )
    return value


def _stop_ids(folder: Path, values: Mapping[str, Any]) -> tuple[int, ...]:
    """Ids that end generation: of generation_config.json, else of config.json."""
    config = _optional(folder / "config.json")
    text = config.get("text_config")  # of a larger model
    sources = (FILE, values), ("config.json", config), ("config.json", text)
    for name, source in sources:
        if not isinstance(source, dict):
            continue
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if ids and all(isinstance(each, int) for each in ids):
            return tuple(_check_id(each, name) for each in ids)
    return ()


def _check_id(number: Any, name: str) -> int:
    """``number``, or CheckpointError if no token can have it."""
    if not 0 <= number < LARGEST:
        raise CheckpointError(
            f"{name}: eos_token_id is {number}, expected the id of a token",
            "compare the file with the one that the model's author published",
        )
    return int(number)


def _optional(path: Path) -> dict[str, Any]:
    values = read_json(path) if path.exists() else {}
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name} is not a JSON object", "download the file again")
    return values
