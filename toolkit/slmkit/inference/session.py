"""A session: a loaded artifact (or a checkpoint's reference) with its tokenizer, to ask it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Runner
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import UsageError
from slmkit.inference.evaluate import (
    HELD_OUT,
    Score,
    evaluate,
    read_examples,
    sample_vocabulary,
)
from slmkit.inference.generate import generate, sampler_of, stream_text
from slmkit.ops import Floats
from slmkit.system.progress import Progress, Silent


@dataclass(frozen=True)
class Session:
    """Answers prompts with one runner; made by ``slmkit.load`` and ``Bundle.load``."""

    runner: Runner
    tokenizer: Tokenizer
    chunk: int  # tokens of a prompt fed at once
    about: str  # which artifact, on which runtime

    def stream(
        self, prompt: str, *, max_tokens: int = 256, seed: int = 0, raw: bool = False, **asked: Any
    ) -> Iterator[str]:
        """Pieces of the answer as they are made.

        ``raw``: the prompt as it is, without the chat template. ``asked``: ``temperature``,
        ``top_p``, ``top_k`` and ``repetition_penalty``; those left out, or None, are the model
        author's (generation_config.json). At ``temperature`` 0 the best token is taken, as where
        the author says nothing. Raises SlmkitError for a prompt that is empty or does not fit
        into the context.
        """
        ids = self.tokenizer.prompt_ids(prompt, raw)
        sampler = sampler_of(self.tokenizer, seed, **asked)
        stop = self.tokenizer.stop_ids
        tokens = generate(self.runner, ids, stop, max_tokens, sampler, self.chunk)
        return stream_text(self.tokenizer, tokens)

    def generate(
        self, prompt: str, *, max_tokens: int = 256, seed: int = 0, raw: bool = False, **asked: Any
    ) -> str:
        """The whole answer; arguments as those of ``stream``."""
        return "".join(self.stream(prompt, max_tokens=max_tokens, seed=seed, raw=raw, **asked))

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
