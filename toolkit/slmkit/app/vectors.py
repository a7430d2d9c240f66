"""Vectors: what the code of an app must compute, in whichever language it is written.

Tokenizer, chat form and sampler are compared exactly; logits of greedy steps, where a model is
there, within a tolerance of the test's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import BaseModel

from slmkit.app.chat_form import ChatForm, NoChatForm
from slmkit.app.chat_proof import conversations
from slmkit.backend.interface import Runner
from slmkit.bundle.manifest import STRICT
from slmkit.checkpoint.tokenizer import BUILD_DAY, Tokenizer
from slmkit.inference.generate import Sampler

TEXTS = (
    "Turn off the kitchen lights at 7 pm.",
    "  leading and   inner spaces",
    "tabs\tand\nnew\n\nlines \r\n  ",
    "it's, we'll; DON'T, I'M 2026-11-27 3.14159 1000000",
    "naïve café — “quotes” … €",
    "日本語とemoji 🎉👩‍💻 ไทย हिन्दी",
    "",
    " ",
    "a" * 40,
    'def main():\n    print("x")\n\n\n    return {1: [2]}  # end\n',
    "\u00a0nbsp\u2003em\u0085next\u200bzero",
    "e\u0301 combining, ﬁne, Å Å",
    "x²٣ 4½ Ⅷ",
    "▁literal▁▁ sign",
    "\x00\x1f control \ufeff",
    "byte\x04s th\x06at \x13 SmolLM2 \U00040000 lacks",
)
COUNT = 8  # picks of a sampler
WIDTH = 32  # logits of a sampler
SAMPLERS = (
    Sampler(),
    Sampler(1.0, seed=1),
    Sampler(0.7, top_p=0.9, seed=2),
    Sampler(1.5, top_p=0.5, seed=3),
    Sampler(1.0, top_k=5, seed=4),
    Sampler(0.8, top_k=10, top_p=0.8, repetition_penalty=1.3, seed=5),
    Sampler(repetition_penalty=2.0),
)
TOP = 4  # best ids of a greedy step
LIMIT = 64  # tokens of a greedy answer, at most


class TextVector(BaseModel):
    """A text, its ids (without ``start_ids``), and their text with and without special tokens."""

    model_config = STRICT

    text: str
    ids: tuple[int, ...]
    decoded: str
    shown: str


class Said(BaseModel):
    """A message of a conversation."""

    model_config = STRICT

    role: str
    content: str


class ChatVector(BaseModel):
    """A conversation, and the template's text of it with the opening of an answer."""

    model_config = STRICT

    messages: tuple[Said, ...]
    text: str


class SamplerVector(BaseModel):
    """Settings, logits, the sequence so far, and the ids that a new sampler picks one by one.

    Each pick joins ``before``.
    """

    model_config = STRICT

    logits: tuple[float, ...]
    before: tuple[int, ...]
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    ids: tuple[int, ...]


class GreedyStep(BaseModel):
    """The best id, and the best few with their logits."""

    model_config = STRICT

    id: int
    top: tuple[tuple[int, float], ...]


class GreedyVector(BaseModel):
    """A user's message, its prompt's ids, and the greedy answer; the last step may be a stop id."""

    model_config = STRICT

    prompt: str
    prompt_ids: tuple[int, ...]
    steps: tuple[GreedyStep, ...]
    answer: str


class Vectors(BaseModel):
    """All vectors of one tokenizer, and of one model, if there is one."""

    model_config = STRICT

    format: Literal["slmkit-app-vectors/1"] = "slmkit-app-vectors/1"
    name: str
    tokenizer: tuple[TextVector, ...]
    chat: tuple[ChatVector, ...]
    sampler: tuple[SamplerVector, ...]
    greedy: tuple[GreedyVector, ...]
    stop_ids: tuple[int, ...]


def vectors_of(
    name: str,
    tokenizer: Tokenizer,
    form: ChatForm | NoChatForm,
    runner: Runner | None = None,
    prompts: Sequence[str] = (),
) -> Vectors:
    """The vectors of a tokenizer; with a runner, its greedy answers to prompts too."""
    return Vectors(
        name=name,
        tokenizer=tuple(_texts(tokenizer)),
        chat=tuple(_chats(tokenizer, form)),
        sampler=tuple(_samplers()),
        greedy=tuple(_greedy(tokenizer, runner, each) for each in prompts if runner),
        stop_ids=tokenizer.stop_ids,
    )


def _texts(tokenizer: Tokenizer) -> Iterator[TextVector]:
    special = [token.content for token in tokenizer.library.get_added_tokens_decoder().values()]
    around = [f"{token}Hi there {token} \n{token}" for token in special[:8]]
    for text in (*TEXTS, *around, "".join(special[:4])):
        ids = tokenizer.encode(text, special=False)
        yield TextVector(
            text=text,
            ids=tuple(ids),
            decoded=tokenizer.decode(ids, special=True),
            shown=tokenizer.decode(ids),
        )


def _chats(tokenizer: Tokenizer, form: ChatForm | NoChatForm) -> Iterator[ChatVector]:
    """On the day of builds, whose date the form has in its texts."""
    if isinstance(form, NoChatForm):
        return
    tokenizer = tokenizer.on(BUILD_DAY)
    for messages in list(conversations(form.system is not None))[::3]:
        yield ChatVector(
            messages=tuple(Said(**each) for each in messages), text=tokenizer.chat(messages)
        )


def _samplers() -> Iterator[SamplerVector]:
    random = np.random.default_rng(7)
    for settings in SAMPLERS:
        sampler = replace(settings)  # with random numbers from the first on
        logits = np.round(random.normal(size=WIDTH) * 3, 3).astype(np.float32)
        before = [int(logits.argmax()), 0, 1, 2]
        picked: list[int] = []
        for _ in range(COUNT):
            picked.append(sampler.pick(logits, [*before, *picked]))
        yield SamplerVector(
            logits=tuple(map(float, logits)),
            before=tuple(before),
            temperature=sampler.temperature,
            top_k=sampler.top_k,
            top_p=sampler.top_p,
            repetition_penalty=sampler.repetition_penalty,
            seed=sampler.seed,
            ids=tuple(picked),
        )


def _greedy(tokenizer: Tokenizer, runner: Runner, prompt: str) -> GreedyVector:
    ids = tokenizer.prompt_ids(prompt)
    runner.reset()
    row, steps = runner.feed(np.asarray(ids))[-1], list[GreedyStep]()
    while len(steps) < LIMIT:
        best = np.argsort(-row, kind="stable")[:TOP]
        top = tuple((int(each), round(float(row[each]), 5)) for each in best)
        steps.append(GreedyStep(id=int(best[0]), top=top))
        if steps[-1].id in tokenizer.stop_ids:
            break
        row = runner.feed(np.asarray([steps[-1].id]))[-1]
    answer = tokenizer.decode([step.id for step in steps])
    return GreedyVector(prompt=prompt, prompt_ids=tuple(ids), steps=tuple(steps), answer=answer)
