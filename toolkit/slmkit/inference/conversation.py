"""A conversation: messages, and answers that see all of them as far as the context reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from slmkit.checkpoint.tokenizer import Message
from slmkit.errors import SlmkitError, UsageError
from slmkit.inference.answer import Answer
from slmkit.inference.session import Session

ROOM = 4  # a share of the context, 1 / ROOM, that is left to an answer


class Conversation:
    """Questions and answers of one session. The runner goes on where it is: only what is new is
    read. When the context is full, the oldest questions are forgotten, with their answers.

    Raises UsageError for a model without a chat template.
    """

    def __init__(
        self,
        session: Session,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if session.tokenizer.template is None:
            raise UsageError(
                "the model has no chat template, so it knows no conversation",
                "`slmkit run` continues a text",
            )
        self.session = session.continued()
        self.system, self.tools = system, tools
        self.messages: list[Message] = []
        self.forgotten = 0  # messages

    def reset(self) -> None:
        """Forget all messages but the system's."""
        self.messages.clear()
        self.forgotten = 0

    def ask(self, question: str, **asked: Any) -> Turn:
        """The answer to the next question; ``asked`` as of ``Session.stream``.

        Both become messages when the answer ends, or is closed. Raises SlmkitError for a question
        that does not fit into the context by itself.
        """
        messages = self._fitting([*self.messages, {"role": "user", "content": question}])
        self.forgotten += len(self.messages) + 1 - len(messages)
        self.messages = messages[:-1]
        answer = self.session.stream(messages, system=self.system, tools=self.tools, **asked)
        return Turn(self, messages[-1], answer)

    def _fitting(self, messages: list[Message]) -> list[Message]:
        """All messages if they leave room for an answer; else the last ones, from a user's on,
        that fill half of the context at most: what is forgotten makes room for several turns."""
        context = self.session.runner.context_length
        if self._size(messages) <= context - context // ROOM:
            return messages
        starts = [at for at, each in enumerate(messages) if each["role"] == "user"]
        for start in starts:
            size = self._size(messages[start:])
            if size <= context // 2:
                return messages[start:]
        if size < context:
            return messages[starts[-1] :]
        raise SlmkitError(
            f"the question has {size} tokens, the context {context}",
            "shorten it, or build with a larger --context",
        )

    def _size(self, messages: list[Message]) -> int:
        return len(self.session.prompt_ids(messages, False, self.system, self.tools))


class Turn(Iterator[str]):
    """Pieces of an answer; the conversation has it when it ends or is closed."""

    def __init__(self, conversation: Conversation, question: Message, answer: Answer) -> None:
        self.answer = answer
        self._conversation, self._question = conversation, question
        self._open = True

    def __next__(self) -> str:
        try:
            return next(self.answer)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        """Keep the question and as much of the answer as there is."""
        self.answer.close()
        if self._open:
            said = {"role": "assistant", "content": self.answer.text}
            self._conversation.messages += [self._question, said]
            self._open = False
