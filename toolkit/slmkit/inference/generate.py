"""Generate text with any runner: sampling loop, streaming decode."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from slmkit.backend.interface import Runner
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import SlmkitError, UsageError
from slmkit.inference.continued import ContinuedRunner, read_prompt
from slmkit.inference.draws import DRAW, draws
from slmkit.ops import Floats

INCOMPLETE = "\ufffd"  # a decoder's output for the first bytes of a character
Finish = Literal["stop", "length"]  # why an answer ends: OpenAI's words


class Constraint(Protocol):
    """A form that answers must have."""

    def narrow(self, logits: Floats, answer: Sequence[int]) -> Floats:
        """The logits (V,), minus infinity where a token cannot follow ``answer`` (token ids)."""
        ...


@dataclass
class Sampler:
    """Selects the next token: greedy at temperature 0, else top-k and nucleus (top-p) sampling.

    In the order of transformers: repetition penalty, temperature, top-k, top-p. Of equal logits the
    lower id counts as the better one. After the penalty, which is of float32, all is computed in
    float64. The sample apps do the same with the same random numbers.
    Raises UsageError for numbers that say nothing.

    Source: Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration".
    """

    temperature: float = 0.0
    top_p: float = 1.0  # cumulative probability of the tokens to sample from
    seed: int = 0
    top_k: int = 0  # tokens to sample from; 0: all
    repetition_penalty: float = 1.0
    never: Sequence[int] = ()  # ids that no token has
    random: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:  # not for NaN either
            raise UsageError(f"the temperature is {self.temperature:g}", "give 0 or more: 0.7")
        if not 0 <= self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p:g}", "give a probability, from 0 to 1")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}", "give a number of tokens, 0 for all")
        if not 0 < self.repetition_penalty < math.inf:
            raise UsageError(
                f"the repetition penalty is {self.repetition_penalty:g}", "give more than 0: 1.1"
            )
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}", "give 0 or more")
        self.random = draws(self.seed)

    def pick(self, logits: Floats, before: Sequence[int] = ()) -> int:
        """A token id from logits (V,). ``before``: the sequence so far, for the penalty."""
        logits = self._allowed(logits, before)
        if self.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[: self.top_k or None]
        scaled = logits[order].astype(np.float64) / self.temperature
        mass = np.cumsum(np.exp(scaled - scaled[0]))
        last = np.searchsorted(mass, self.top_p * mass[-1])  # of those to sample from
        at = np.searchsorted(mass[:last], next(self.random) / DRAW * mass[last], side="right")
        return int(order[at])

    def _allowed(self, logits: Floats, before: Sequence[int]) -> Floats:
        """The logits after the penalty, and without ids that no token has.

        Source of the penalty: Keskar et al. 2019, "CTRL", as transformers applies it.
        """
        if self.repetition_penalty != 1 and len(before):
            logits, seen = logits.copy(), np.unique(np.asarray(before))
            penalty, values = np.float32(self.repetition_penalty), logits[seen]
            logits[seen] = np.where(values < 0, values * penalty, values / penalty)
        if len(self.never):
            logits = logits.copy()
            logits[list(self.never)] = -np.inf
        return logits


def sampler_of(
    tokenizer: Tokenizer,
    seed: int = 0,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    repetition_penalty: float | None = None,
) -> Sampler:
    """The sampler that the model's author asks for, but for the settings that are given."""
    author = tokenizer.author.settings
    return Sampler(
        (author.temperature if author.do_sample else 0.0) if temperature is None else temperature,
        author.top_p if top_p is None else top_p,
        seed,
        author.top_k if top_k is None else top_k,
        author.repetition_penalty if repetition_penalty is None else repetition_penalty,
        tokenizer.padding,
    )


def generate(
    runner: Runner,
    prompt: Sequence[int],
    stop: Sequence[int],
    limit: int,
    sampler: Sampler,
    chunk: int,
    constraint: Constraint | None = None,
) -> Generator[int, None, Finish]:
    """Yield token ids after ``prompt`` until a stop id, which is not yielded, or a limit.

    ``limit``: most ids; the runner's context length limits them too. ``chunk``: most prompt tokens
    of one call of ``runner.feed``, where the runner does not choose. A ``ContinuedRunner`` reads
    only what it does not hold yet.
    Returns why it ended. Raises SlmkitError for an empty or too long prompt.
    """
    check_prompt(prompt, runner.context_length)
    scores = _read(runner, prompt, chunk)
    sequence = list(prompt)
    for count in range(min(limit, runner.context_length - len(prompt))):
        if constraint is not None:
            scores = constraint.narrow(scores, sequence[len(prompt) :])
        token = sampler.pick(scores, sequence)
        if token in stop:
            return "stop"
        sequence.append(token)
        yield token
        if count + 1 < limit and len(prompt) + count + 1 < runner.context_length:
            scores = runner.feed(np.asarray([token]))[-1]
    return "length"


def check_prompt(prompt: Sequence[int], context: int) -> None:
    """Raise SlmkitError for a prompt that is empty, or leaves no room for an answer."""
    if not prompt:
        raise SlmkitError("the prompt is empty", "give some text")
    if len(prompt) >= context:
        raise SlmkitError(
            f"the prompt has {len(prompt)} tokens, the artifact's context {context}",
            "shorten it, or build with a larger --context",
        )


def _read(runner: Runner, prompt: Sequence[int], chunk: int) -> Floats:
    """Read what is not held. The logits of the last token, (V,)."""
    ids = np.asarray(prompt, dtype=np.int64)
    if not isinstance(runner, ContinuedRunner):
        runner.reset()
        return read_prompt(runner, ids, chunk)
    logits = runner.read(ids[runner.resume(prompt) :], chunk)
    runner.mark()
    return logits


def stream_text(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """Yield text as soon as its characters are complete; a character may span several tokens.

    Tokens of single bytes are held back until another one follows: if some of them are no
    character, the decoder replaces all of them, a newline among them. Special tokens are no text,
    so bytes on both sides of one follow each other.
    """
    library = tokenizer.library
    held = library.byte_ids | library.special_ids
    ids: list[int] = []
    emitted = ""
    for token in tokens:
        ids.append(token)
        if token in held:
            continue
        text = tokenizer.decode(ids)
        if not text.endswith(INCOMPLETE):
            yield text[len(emitted) :]
            emitted = text
    text = tokenizer.decode(ids)
    if len(text) > len(emitted):
        yield text[len(emitted) :]


def answer(runner: Runner, tokenizer: Tokenizer, prompt: str, limit: int, chunk: int) -> str:
    """The greedy answer to one prompt, in the chat template if there is one.

    ``limit`` and ``chunk`` as in ``generate``.
    """
    ids = tokenizer.prompt_ids(prompt)
    sampler = Sampler(never=tokenizer.padding)
    tokens = generate(runner, ids, tokenizer.stop_ids, limit, sampler, chunk)
    return tokenizer.decode(list(tokens))
