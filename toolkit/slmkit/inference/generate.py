"""Text out of any runner: chat template, sampling loop, streaming decode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from slmkit.backend.interface import Runner
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import SlmkitError
from slmkit.ops import Floats

UNFINISHED = "\ufffd"  # what a decoder shows for half of a character


@dataclass
class Sampler:
    """Picks the next token: the best one at temperature 0, else by chance within ``top_p``."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def pick(self, logits: Floats) -> int:
        """(V,) -> a token id."""
        if self.temperature == 0:
            return int(logits.argmax())
        scaled = (logits - logits.max()).astype(np.float64) / self.temperature
        order = np.argsort(-scaled, kind="stable")
        probabilities = np.exp(scaled[order])
        probabilities /= probabilities.sum()
        kept = int(np.searchsorted(np.cumsum(probabilities), self.top_p)) + 1
        return int(
            self.random.choice(order[:kept], p=probabilities[:kept] / probabilities[:kept].sum())
        )


def generate(
    runner: Runner,
    prompt: Sequence[int],
    stop: Sequence[int],
    limit: int,
    sampler: Sampler,
    chunk: int,
) -> Iterator[int]:
    """Token ids after ``prompt``, until a stop id (kept back), ``limit`` or the context's end."""
    if not prompt:
        raise SlmkitError("the prompt is empty", "give some text")
    if len(prompt) >= runner.context_length:
        raise SlmkitError(
            f"the prompt has {len(prompt)} tokens, the artifact's context {runner.context_length}",
            "shorten it, or build with a larger --context",
        )
    runner.reset()
    ids = np.asarray(prompt, dtype=np.int64)
    for at in range(0, len(ids), chunk):
        logits = runner.feed(ids[at : at + chunk])
    for count in range(min(limit, runner.context_length - len(prompt))):
        token = sampler.pick(logits[-1])
        if token in stop:
            return
        yield token
        if count + 1 < limit and len(prompt) + count + 1 < runner.context_length:
            logits = runner.feed(np.asarray([token]))


def stream_text(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """Pieces of text as they become whole: a character of several tokens comes at its last one."""
    ids: list[int] = []
    said = ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        if not text.endswith(UNFINISHED) and text.startswith(said):
            yield text[len(said) :]
            said = text
    rest = tokenizer.decode(ids)
    if len(rest) > len(said):
        yield rest[len(said) :]


def answer(runner: Runner, tokenizer: Tokenizer, prompt: str, limit: int, chunk: int) -> str:
    """The greedy answer to one prompt, through the chat template if there is one."""
    ids = tokenizer.prompt_ids(prompt)
    tokens = generate(runner, ids, tokenizer.stop_ids, limit, Sampler(), chunk)
    return tokenizer.decode(list(tokens))
