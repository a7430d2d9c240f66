"""An answer as it is made: its text in pieces, and then how it went."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.inference.generate import Finish, stream_text


@dataclass
class Statistics:
    """Counts and times of one answer."""

    prompt_tokens: int
    reused_tokens: int  # of the prompt: those that the runner held already
    answer_tokens: int = 0
    first_token_s: float = 0.0  # from the question to the first token
    decode_s: float = 0.0  # from the first token to the last one

    @property
    def prefill_rate(self) -> float:
        """Tokens of the prompt per second, those that were read; 0 if nothing was answered."""
        read = self.prompt_tokens - self.reused_tokens
        return read / self.first_token_s if self.first_token_s else 0.0

    @property
    def decode_rate(self) -> float:
        """Tokens of the answer per second, after the first one; 0 if there was but one."""
        return (self.answer_tokens - 1) / self.decode_s if self.decode_s else 0.0


class Answer(Iterator[str]):
    """Pieces of text, made as one iterates. ``statistics`` and ``finish`` are right at its end;
    ``close`` ends it early."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        tokens: Generator[int, None, Finish],
        prompt_tokens: int,
        reused_tokens: int = 0,
        stop: Sequence[str] = (),
    ) -> None:
        self.statistics = Statistics(prompt_tokens, reused_tokens)
        self.finish: Finish = "length"
        self.text = ""
        self._tokens = tokens
        self._pieces = self._until(stream_text(tokenizer, self._counted()), stop)

    def __next__(self) -> str:
        piece = next(self._pieces)
        self.text += piece
        return piece

    def close(self) -> None:
        """End the answer where it is."""
        self._pieces.close()
        self._tokens.close()

    def _counted(self) -> Iterator[int]:
        """The tokens, with notes of how many and when."""
        facts, start = self.statistics, time.perf_counter()
        while True:
            try:
                token = next(self._tokens)
            except StopIteration as end:
                self.finish = end.value
                return
            now = time.perf_counter() - start
            facts.first_token_s = facts.first_token_s or now
            facts.decode_s = now - facts.first_token_s
            facts.answer_tokens += 1
            yield token

    def _until(self, pieces: Iterator[str], stop: Sequence[str]) -> Generator[str, None, None]:
        """The pieces up to the string of ``stop`` that is whole first, which is left out."""
        held = ""
        for piece in pieces:
            held += piece
            found = [
                (held.index(each) + len(each), held.index(each)) for each in stop if each in held
            ]
            if found:
                self.finish = "stop"
                yield held[: min(found)[1]]
                return
            sure = len(held) - _unsure(held, stop)
            if sure:
                yield held[:sure]
            held = held[sure:]
        if held:
            yield held


def _unsure(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of ``text`` with which one of ``stop`` begins."""
    most = max(map(len, stop), default=0)
    lengths = range(min(len(text), most), 0, -1)
    return next((each for each in lengths if text.endswith(tuple(s[:each] for s in stop))), 0)
