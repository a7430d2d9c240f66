"""Golden prompts, which parity gives every artifact, and the reference's answers to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.models.spec import Spec
from slmkit.ops import Floats
from slmkit.parity.crossing import Crossing

Ids = NDArray[np.int64]
Doubles = NDArray[np.float64]
TEXTS = (  # an instruction, a story, and facts, sums and code; they differ from the first word on
    "Turn off the kitchen lights at 7 pm, close the blinds and remind me to call Anna.",
    "Once upon a time, there was a little girl named Lily. One day she saw a big, red ball in the "
    "park, and a dog that wanted to play with it too.",
    "The capital of France is Paris. 2 + 2 = 4, and 12 * 12 = 144. def main():\n"
    "    print('hello, world')\n    return 0",
)
FIRST = 40  # tokens of the first prompt, at most: slow runtimes run no other
TEXT = 64  # tokens of any prompt of text, at most
# Prompts of random ids, the tokens of each at most, and those decoded after it. In a runtime that
# rounds activations a number on the border of two steps falls either way, and all positions behind
# it differ: of many short rows more show that no others do than of two long ones.
RANDOM_PROMPTS, RANDOM, DECODE_RANDOM = 8, 8, 6
LEAST_WORDS = 4  # of a text in a chat template: where fewer fit, the text stands alone
CHUNK = 16  # tokens fed at once while parity prefills, at least
DECODE = 32  # tokens decoded one by one after a prompt of text, through the cache
# Large models get fewer prompts and decode that far after the first one only: at accuracy_level 0
# a decode step of the 0.5B shape takes 0.36 s, most of it spent on dequantizing the 8-bit head.
# They are not compared with a reference that rounds: one longer prompt of random ids is enough.
DECODE_LARGE, RANDOM_LARGE = 2, 24
LARGE = 100_000_000  # parameters
COLUMNS = 4096  # logits kept per position in a bundle: all of a smaller vocabulary
TOP = 8  # best ids of each of at most 376 positions, which are always among them
SEED = 20260101
WHOLE_CONTEXT = "long"  # the name of that comparison, beside the mode's


@dataclass(frozen=True)
class Prompt:
    """A prompt's token ids, and the number of tokens to decode after it."""

    name: str
    ids: Ids
    decode: int
    text: bool  # else random ids


@dataclass(frozen=True)
class Outputs:
    """Logits of some positions, reduced to some columns of the vocabulary."""

    columns: Ids  # (C,) ascending
    values: Floats  # (T, C)
    norm: Doubles  # (T,) log of the sum of exp over the whole vocabulary; NaN: see ``finite``
    best: Ids  # (T,) argmax over the whole vocabulary

    @property
    def finite(self) -> NDArray[np.bool_]:
        """(T,) Whether no logit of a position is NaN or infinite, over the whole vocabulary."""
        return np.isfinite(self.norm)

    def first(self, positions: int) -> Outputs:
        """Keep only the first ``positions`` positions."""
        rows = (self.values[:positions], self.norm[:positions], self.best[:positions])
        return Outputs(self.columns, *rows)


@dataclass(frozen=True)
class Crossed:
    """A text as long as the context, and the reference's outputs at the positions that count."""

    crossing: Crossing
    outputs: Outputs

    def as_golden(self) -> Golden:
        """The positions as one sequence of text."""
        ids = self.crossing.ids[list(self.crossing.kept)]
        return Golden((WHOLE_CONTEXT,), 1, (ids,), (len(ids),), self.outputs)


@dataclass(frozen=True)
class Golden:
    """Sequences (prompt and continuation), and the reference's outputs on the codes.

    The first ``texts`` sequences begin with text, the others with random ids.
    """

    names: tuple[str, ...]
    texts: int
    sequences: tuple[Ids, ...]
    prompt_lengths: tuple[int, ...]
    outputs: Outputs
    crossed: Crossed | None = None

    def decoded(self) -> list[slice]:
        """Positions at which a token was decoded, a slice for each sequence: from the prompt's last
        token on."""
        spans, start = [], 0
        for ids, prompt in zip(self.sequences, self.prompt_lengths, strict=True):
            spans.append(slice(start + prompt - 1, start + len(ids)))
            start += len(ids)
        return spans

    def prompts(self) -> list[Prompt]:
        """The prompts of the sequences, each with the number of tokens decoded after it."""
        parts = zip(self.names, self.sequences, self.prompt_lengths, strict=True)
        return [
            Prompt(name, ids[:length], len(ids) - length, at < self.texts)
            for at, (name, ids, length) in enumerate(parts)
        ]

    def first(self, prompts: int | None) -> Golden:
        """Keep only the first ``prompts`` prompts; None keeps all."""
        if prompts is None or prompts >= len(self.sequences):
            return self
        sequences = self.sequences[:prompts]
        return Golden(
            self.names[:prompts],
            min(self.texts, prompts),
            sequences,
            self.prompt_lengths[:prompts],
            self.outputs.first(sum(map(len, sequences))),
        )

    def judged(self, random_ids: bool) -> Golden:
        """Keep only the texts, unless random ids are judged too; all, where there is no text."""
        return self if random_ids else self.first(self.texts or None)

    def place(self, position: int) -> str:
        """Where one of all positions lies, in words: prompts count from 1, positions from 0."""
        for number, ids in enumerate(self.sequences, 1):
            if position < len(ids):
                return f"position {position} of golden prompt {number}"
            position -= len(ids)
        raise IndexError(position)

    def reduced(self) -> Golden:
        """Keep the columns that a bundle stores: the best few of each position, random others."""
        crossed = self.crossed
        if crossed is not None:
            crossed = replace(crossed, outputs=_reduced(crossed.outputs))
        return replace(self, outputs=_reduced(self.outputs), crossed=crossed)


def _reduced(outputs: Outputs) -> Outputs:
    values = outputs.values
    if values.shape[1] <= COLUMNS:
        return outputs
    best = np.unique(np.argpartition(values, -TOP, axis=1)[:, -TOP:])
    others = np.random.default_rng(SEED).permutation(values.shape[1])
    others = others[~np.isin(others, best)][: max(0, COLUMNS - len(best))]
    columns = np.sort(np.concatenate([best, others]))
    return replace(outputs, columns=columns, values=values[:, columns])


def golden_prompts(
    tokenizer: Tokenizer, spec: Spec, context_length: int, parameters: int
) -> list[Prompt]:
    """Make prompts of text, then of random ids, that fit into half of the context.

    Texts stand in the chat template, if there is one and it leaves them room. Random ids begin
    with bos where the prompt of a user does.
    """
    room = min(TEXT, context_length // 2)
    decode = min(DECODE, context_length - room)
    large = parameters > LARGE
    texts = [
        (text, text_ids(tokenizer, text, room if at else min(FIRST, room), room))
        for at, text in enumerate(TEXTS)
    ]
    random, start = np.random.default_rng(SEED), _bos(tokenizer)
    count = max(min(RANDOM_LARGE if large else RANDOM, room) - len(start), 0)
    rows = [
        (f"random {number + 1}", start + random.integers(0, spec.vocabulary, count).tolist())
        for number in range(1 if large else RANDOM_PROMPTS)
    ]
    prompts = [(name, ids, True) for name, ids in texts if ids]
    prompts += [(name, ids, False) for name, ids in rows if ids]
    found = []
    for at, (name, ids, text) in enumerate(prompts):
        more = DECODE_LARGE if large and at else DECODE if text else DECODE_RANDOM
        found.append(Prompt(name, np.asarray(ids), min(more, decode), text))
    return found


def text_ids(tokenizer: Tokenizer, text: str, wanted: int, room: int) -> list[int]:
    """A text in the chat template, in at most ``wanted`` tokens, else in at most ``room``.

    Words are cut off the text, never off the template. Where the template leaves no room for
    LEAST_WORDS words, the text stands alone, as the tokenizer encodes it, and its end is cut.
    """
    if tokenizer.template is not None:
        words = text.split(" ")
        for limit in (wanted, room):
            for count in range(len(words), LEAST_WORDS - 1, -1):
                ids = tokenizer.prompt_ids(" ".join(words[:count]).rstrip())
                if len(ids) <= limit:
                    return ids
    return tokenizer.prompt_ids(text, raw=True)[:wanted]


def _bos(tokenizer: Tokenizer) -> list[int]:
    """The id of bos, if the tokenizer or the template puts it before a user's text."""
    first = tokenizer.prompt_ids("a")[:1]
    return first if first == [tokenizer.token_id("bos_token")] else []


def chunks(ids: Ids, prompt_length: int) -> list[Ids]:
    """Split a sequence into the pieces that are fed: the prompt in chunks, then single tokens.

    A prompt of more than CHUNK tokens has two, the last one shorter: graphs of a fixed size compute
    a whole chunk for each.
    """
    size = max(CHUNK, prompt_length // 2 + 1)
    prefill = [ids[at : min(at + size, prompt_length)] for at in range(0, prompt_length, size)]
    return [*prefill, *(ids[at : at + 1] for at in range(prompt_length, len(ids)))]


def outputs_of(logits: Sequence[Floats], columns: Ids | None = None) -> Outputs:
    """Reduce logits (T, V) of several sequences, one after the other; None keeps all columns."""
    vocabulary = logits[0].shape[1]
    if columns is None or len(columns) == vocabulary:
        columns = np.arange(vocabulary)
        values = logits[0] if len(logits) == 1 else np.concatenate(logits)
    else:
        values = np.concatenate([part[:, columns] for part in logits])
    norm = np.concatenate([log_norms(part) for part in logits])
    best = np.concatenate([part.argmax(axis=1) for part in logits])
    return Outputs(columns, values, norm, best)


def log_norms(logits: Floats) -> Doubles:
    """log(sum(exp)) per row, (T, V) -> (T,); NaN where a logit is NaN or infinite.

    A row at a time: no second copy of the logits. In float64: rounding to float32 alone would be a
    KL of 1e-6.
    """
    return np.asarray([_log_sum_exp(row) for row in logits], dtype=np.float64)


def _log_sum_exp(row: Floats) -> float:
    """NaN where a logit is NaN or infinite."""
    least, most = float(row.min()), float(row.max())
    if not math.isfinite(least) or not math.isfinite(most):
        return math.nan
    # The difference too is of float64: exp of a rounded one would be off by 1e-6.
    return most + float(np.log(np.exp(row.astype(np.float64) - most).sum()))
