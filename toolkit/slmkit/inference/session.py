"""A session: a loaded artifact (or a checkpoint's reference) with its tokenizer, to ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Runner
from slmkit.checkpoint.tokenizer import Message, Tokenizer
from slmkit.errors import UsageError
from slmkit.inference.answer import Answer
from slmkit.inference.constraint import json_constraint
from slmkit.inference.continued import ContinuedRunner
from slmkit.inference.evaluate import (
    HELD_OUT,
    Score,
    evaluate,
    read_examples,
    sample_vocabulary,
)
from slmkit.inference.generate import check_prompt, generate, sampler_of
from slmkit.ops import Floats
from slmkit.system.progress import Progress, Silent


@dataclass(frozen=True)
class Session:
    """Answers prompts with one runner; made by ``slmkit.load`` and ``Bundle.load``."""

    runner: Runner
    tokenizer: Tokenizer
    chunk: int  # tokens of a prompt fed at once
    about: str  # which artifact, on which runtime
    name: str = "model"

    def stream(
        self,
        prompt: str | Sequence[Message],
        *,
        max_tokens: int = 256,
        seed: int = 0,
        raw: bool = False,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        stop: Sequence[str] = (),
        json_schema: Mapping[str, Any] | None = None,
        **asked: Any,
    ) -> Answer:
        """Pieces of the answer as they are made.

        ``prompt``: a user's text, or messages of "role" and "content". ``raw``: the text as it is,
        without the chat template. ``system``: a message before all others. ``tools``: JSON schemas
        of functions, for the template. ``stop``: texts that end the answer. ``json_schema``: the
        answer is JSON of this form. ``asked``: ``temperature``, ``top_p``, ``top_k`` and
        ``repetition_penalty``; those left out, or None, are the model author's
        (generation_config.json). At ``temperature`` 0 the best token is taken, as where the author
        says nothing. Raises SlmkitError for a prompt that is empty or does not fit into the
        context, UsageError, MissingPackageError.
        """
        ids = self.prompt_ids(prompt, raw, system, tools)
        check_prompt(ids, self.runner.context_length)
        if not all(stop):
            raise UsageError("a stop text is empty", "give at least one character")
        sampler = sampler_of(self.tokenizer, seed, **asked)
        constraint = json_constraint(self.tokenizer, json_schema) if json_schema else None
        held = self.runner.resume(ids) if isinstance(self.runner, ContinuedRunner) else 0
        tokens = generate(
            self.runner, ids, self.tokenizer.stop_ids, max_tokens, sampler, self.chunk, constraint
        )
        return Answer(self.tokenizer, tokens, len(ids), held, stop)

    def generate(self, prompt: str | Sequence[Message], **asked: Any) -> str:
        """The whole answer; arguments as those of ``stream``."""
        return "".join(self.stream(prompt, **asked))

    def prompt_ids(
        self,
        prompt: str | Sequence[Message],
        raw: bool = False,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of a prompt; arguments as those of ``stream``."""
        if isinstance(prompt, str):
            if system is None and tools is None:
                return self.tokenizer.prompt_ids(prompt, raw)
            prompt = [{"role": "user", "content": prompt}]
        if raw:
            raise UsageError(
                "a raw prompt has no place for a system message or tools", "leave out --raw"
            )
        first = [] if system is None else [{"role": "system", "content": system}]
        ids = self.tokenizer.chat_ids([*first, *prompt], tools)
        if tools and ids == self.tokenizer.chat_ids([*first, *prompt]):
            raise UsageError("the model's chat template has no place for tools", "leave them out")
        return ids

    def continued(self) -> Session:
        """A session on the same runner that does not read again what it holds already."""
        return replace(self, runner=ContinuedRunner(self.runner))

    def logits(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> Floats:
        """Logits after each token of a new sequence, (T, V) float32.

        Raises BackendError for a sequence beyond the context, SlmkitError for an unknown id.
        """
        whole = np.asarray(ids, dtype=np.int64)
        self.tokenizer.check(whole.tolist())
        self.runner.reset()
        starts = range(0, len(whole), self.chunk)
        return np.concatenate([self.runner.feed(whole[at : at + self.chunk]) for at in starts])

    def evaluate(
        self,
        data: str | Path | None = None,
        *,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> Score:
        """Exact match on a JSONL file of {"prompt", "answer"}; by default the sample model's
        held-out commands, if the model has its tokenizer. ``limit``: only the first examples.
        Raises SlmkitError, UsageError without ``data`` for another model."""
        if data is None and self.tokenizer.library.get_vocab() != sample_vocabulary():
            raise UsageError(
                "the default questions are those of the sample model, which this is not",
                "give a JSONL file of prompts and answers with --data",
            )
        examples = read_examples(Path(data) if data else HELD_OUT)[:limit]
        return evaluate(self.runner, self.tokenizer, examples, self.chunk, progress or Silent())
