"""A runner as a model of lm-evaluation-harness: its ``TemplateLM`` over tokens and logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from slmkit.backend.interface import Runner
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError, SlmkitError
from slmkit.inference.generate import Sampler
from slmkit.inference.load import ReferenceRunner
from slmkit.inference.reference_scorer import reference_likelihoods
from slmkit.inference.scorer import Continuation, Likelihood, Scorer, branches_of, likelihoods
from slmkit.system.progress import Progress

ANSWER = 256  # most tokens of an answer if a task does not say, as the harness's own models have
# it; of a context below 512, the half, since the question needs room too


@dataclass(frozen=True)
class _Question:
    """One request for an answer."""

    prompt: tuple[int, ...]
    stop: tuple[str, ...]  # texts that end the answer and are no part of it
    most: int  # tokens of the answer
    sampler: Sampler


class RunnerModel(TemplateLM):  # type: ignore[misc]
    """Answers the harness's requests with one runner.

    Requests that are longer than the context lose their beginning, as with the harness's models;
    ``truncated`` counts them.
    """

    def __init__(
        self, runner: Runner, tokenizer: Tokenizer, chunk: int, name: str, progress: Progress
    ) -> None:
        super().__init__()
        self.scorer = Scorer(runner, chunk)
        self.tokenizer = tokenizer
        self.max_length = runner.context_length
        self.name = name
        self.progress = progress
        self.truncated = 0

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        eos = self.tokenizer.token_id("eos_token")
        if eos is not None:
            return eos
        if self.tokenizer.stop_ids:
            return self.tokenizer.stop_ids[0]
        raise CheckpointError(
            "the tokenizer names no eos token, which lm-evaluation-harness needs",
            "add eos_token to tokenizer_config.json",
        )

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text without context: bos, else eos."""
        bos = self.tokenizer.token_id("bos_token")
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """The model's name, under which the harness keeps rendered requests."""
        return self.name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's text."""
        return self.tokenizer.template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages as text; ``add_generation_prompt`` off: the last one stays open.

        Templates that refuse a system message get none, as with the harness's own models.
        """
        try:
            text = self.tokenizer.chat(chat_history, add_generation_prompt)
        except CheckpointError:
            others = [each for each in chat_history if each["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            text = self.tokenizer.chat(others, add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; by default with those that the tokenizer adds, if the text has none yet."""
        special = add_special_tokens
        if special is None:
            prefix = self.tokenizer.decode([self.prefix_token_id], special=True)
            special = not string.startswith(prefix)
        return self.tokenizer.encode(string, special=special)

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Of each (context, continuation): the log-probability, and whether it is greedy."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Of each (texts, context, continuation): the log-probability, and whether it is greedy."""
        asked = [self._cut(context, tokens) for _, context, tokens in requests]
        found = self._likelihoods("score answers", asked)
        answers = [(each.log, each.greedy) for each in found]
        for (texts, _, _), result in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, result)
        return answers

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each text, in windows of the context's length."""
        windows: list[Continuation] = []
        counts = []
        for (text,) in (request.args for request in requests):
            pairs = get_rolling_token_windows(
                token_list=self.tok_encode(text),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            cut = [self._cut(*make_disjoint_window(pair)) for pair in pairs]
            windows += cut
            counts.append(len(cut))
        logs = iter(each.log for each in self._likelihoods("score texts", windows))
        return [sum(next(logs) for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The answer to each text, until one of the request's stop texts, or the model's own."""
        questions = [self._question(*request.args) for request in requests]
        self.progress.stage("write answers", len(questions))
        order = sorted(range(len(questions)), key=lambda each: questions[each].prompt)
        found = [""] * len(questions)
        branches = branches_of([questions[number].prompt for number in order])
        for number, shared in zip(order, branches, strict=True):
            found[number] = self._answer(questions[number], shared)
            self.cache_hook.add_partial("generate_until", requests[number].args, found[number])
            self.progress.advance(1)
        return found

    def _likelihoods(self, label: str, asked: Sequence[Continuation]) -> list[Likelihood]:
        self.progress.stage(label, len(asked))
        runner = self.scorer.runner
        if isinstance(runner, ReferenceRunner):  # many sequences through each weight at once
            return reference_likelihoods(runner, asked, self.progress.advance)
        return likelihoods(self.scorer, asked, self.progress.advance)

    def _cut(self, context: Sequence[int], tokens: Sequence[int]) -> Continuation:
        """A request as far as it fits: of its last token no logits are needed."""
        if not tokens:
            raise SlmkitError(
                "a continuation of the task has no token of its own",
                "its text must not be empty, nor be joined with the context's last token",
            )
        if len(tokens) > self.max_length:
            raise SlmkitError(
                f"a continuation of the task has {len(tokens)} tokens, "
                f"the context {self.max_length}",
                "build with a larger --context",
            )
        room = self.max_length + 1 - len(tokens)
        self.truncated += len(context) > room
        return Continuation(tuple(context[-room:]), tuple(tokens))

    def _question(self, text: str, options: Mapping[str, Any]) -> _Question:
        settings = normalize_gen_kwargs(dict(options), min(ANSWER, self.max_length // 2))
        eos = self.tokenizer.decode([self.eot_token_id], special=True)
        stop = handle_stop_sequences(settings["until"], eos=eos)
        most, sampler = settings["max_gen_toks"], Sampler(never=self.tokenizer.padding)
        room = self.max_length - most
        if room <= 0:
            raise SlmkitError(
                f"the task asks for answers of {most} tokens, the context is {self.max_length}",
                "give the task a smaller max_gen_toks, or build with a larger --context",
            )
        if settings["do_sample"]:
            sampler.temperature = settings["temperature"]
            sampler.top_p = settings.get("top_p", 1.0)
        ids = self.tok_encode(text)
        self.truncated += len(ids) > room
        return _Question(tuple(ids[-room:]), tuple(filter(None, stop)), most, sampler)

    def _answer(self, question: _Question, branches: Sequence[int]) -> str:
        logits = self.scorer.begin(question.prompt, branches)
        ids: list[int] = []
        while len(ids) < question.most:
            token = question.sampler.pick(logits)
            if token in self.tokenizer.stop_ids:
                break
            ids.append(token)
            # Special tokens are no part of an answer, but a stop text may name one.
            if any(stop in self.tokenizer.decode(ids, special=True) for stop in question.stop):
                break
            if len(ids) < question.most:
                (rows,) = self.scorer.follow([token])
                logits = rows[-1]
        text: str = postprocess_generated_text(self.tokenizer.decode(ids), question.stop, None)
        return text
