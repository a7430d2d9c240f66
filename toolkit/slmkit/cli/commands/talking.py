"""Commands that let a model talk: one answer, a chat, a server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slmkit.cli import completion
from slmkit.cli.options import FOLDER, Function, command
from slmkit.errors import SlmkitError, UsageError
from slmkit.system.signals import Ended

if TYPE_CHECKING:
    from slmkit.inference.answer import Answer
    from slmkit.inference.session import Session

FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
STDIN = "-"


def talking_options(function: Function) -> Function:
    """Which artifact talks, and how its tokens are sampled."""
    for option in (
        click.option("--mode", help="How to run it [default: as it ships]."),
        click.option(
            "--artifact",
            shell_complete=completion.artifacts,
            help="Which artifact [default: the first].",
        ),
        click.option(
            "--stop", multiple=True, metavar="TEXT", help="Ends an answer; may be repeated."
        ),
        click.option(
            "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sampling."
        ),
        click.option(
            "--repetition-penalty",
            type=click.FloatRange(0, min_open=True),
            help="On tokens that were there before, 1 for none [default: the model's].",
        ),
        click.option(
            "--top-k",
            type=click.IntRange(0),
            help="Most tokens to sample from, 0 for all [default: the model's].",
        ),
        click.option(
            "--top-p",
            type=click.FloatRange(0, 1),
            help="Share of probability to sample from [default: the model's].",
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(0),
            help="0 is greedy [default: the model's, by generation_config.json].",
        ),
        click.option(
            "--max-tokens",
            type=click.IntRange(1),
            default=256,
            show_default=True,
            help="Longest answer.",
        ),
        click.option("--tools", type=FILE, help="JSON list of functions, for the chat template."),
        click.option("--system", help="A system message before all others."),
    ):
        function = option(function)
    return function


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--prompt", required=True, help="What to ask; `-` reads it from stdin.")
@click.option("--raw", is_flag=True, help="Use the prompt as it is, without the chat template.")
@click.option("--json-schema", type=FILE, help="The answer is JSON of this schema.")
@click.option("--stats", is_flag=True, help="Say at the end, on stderr, how long it took.")
@talking_options
@command
def run(
    bundle: Path,
    prompt: str,
    artifact: str | None,
    mode: str | None,
    stats: bool,
    json_schema: Path | None,
    tools: Path | None,
    **asked: Any,
) -> None:
    """Answer a prompt with a bundle (or, slowly, with a checkpoint's reference)."""
    session, loaded = _loaded(bundle, artifact, mode)
    answer = session.stream(
        sys.stdin.read() if prompt == STDIN else prompt,
        tools=_json_file(tools, list),
        json_schema=_json_file(json_schema, dict),
        **asked,
    )
    for piece in answer:
        click.echo(piece, nl=False)
    click.echo()
    if stats:
        click.echo(_told(answer, loaded), err=True)
    if json_schema and answer.finish == "length":
        raise SlmkitError(
            f"the answer ends after {answer.statistics.answer_tokens} tokens, so it is not all of "
            "the JSON",
            "raise --max-tokens, or give texts and lists of the schema a largest length",
        )


@click.command()
@click.argument("bundle", type=FOLDER)
@talking_options
@command
def chat(
    bundle: Path,
    artifact: str | None,
    mode: str | None,
    system: str | None,
    tools: Path | None,
    **asked: Any,
) -> None:
    """Talk with a bundle: it remembers what was said, as far as its context reaches.

    Ctrl-C stops an answer; /reset forgets everything, /stats says how long the last answer took,
    /exit or Ctrl-D ends.
    """
    from slmkit.inference.conversation import Conversation

    session, loaded = _loaded(bundle, artifact, mode)
    conversation = Conversation(session, system, _json_file(tools, list))
    click.echo(f"{session.about}; /help says what else there is", err=True)
    last: Answer | None = None
    for line in _lines():
        if line == "/reset":
            conversation.reset()
            click.echo("forgotten", err=True)
        elif line == "/stats":
            click.echo(_told(last, loaded) if last else "no answer yet", err=True)
        elif line in ("/exit", "/quit"):
            return
        elif line.startswith("/"):
            click.echo("/reset, /stats, /exit; Ctrl-C stops an answer", err=True)
        elif line:
            last = _answered(conversation, line, asked) or last


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--artifact", help="Which artifact [default: the first].")
@click.option("--mode", help="How to run it [default: as it ships].")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen at; 0 takes a free one.",
)
@click.option(
    "--token",
    envvar="SLMKIT_SERVE_TOKEN",
    help="Clients must send it as their API key; needed for other addresses than this computer's "
    "own [environment: SLMKIT_SERVE_TOKEN].",
)
@command
def serve(
    bundle: Path, artifact: str | None, mode: str | None, host: str, port: int, token: str | None
) -> None:
    """Answer clients of OpenAI's interface (chat completions) with a bundle's artifact."""
    from slmkit.backend.registry import require_extra

    require_extra("a server", "serve", "starlette", "uvicorn")
    from slmkit.serving.server import serve as serve_session

    session, _ = _loaded(bundle, artifact, mode)
    serve_session(session, host, port, token, lambda where: click.echo(where, err=True))


def _loaded(bundle: Path, artifact: str | None, mode: str | None) -> tuple[Session, float]:
    """A session, and the seconds that it took to load it."""
    from slmkit import api

    start = time.perf_counter()
    session = api.load(bundle, artifact, mode)
    return session, time.perf_counter() - start


def _answered(conversation: Any, question: str, asked: dict[str, Any]) -> Answer | None:
    """Print an answer as it is made; Ctrl-C stops it. None for a question that was refused."""
    before = conversation.forgotten
    try:
        turn = conversation.ask(question, **asked)
    except SlmkitError as error:
        click.echo(f"Error: {error.message}\nhint: {error.hint}", err=True)
        return None
    if conversation.forgotten > before:
        click.echo("(the context is full: the oldest messages are forgotten)", err=True)
    try:
        for piece in turn:
            click.echo(piece, nl=False)
        click.echo()
    except KeyboardInterrupt as error:
        if isinstance(error, Ended):  # not by Ctrl-C
            raise
        turn.close()
        click.echo()
        click.echo("(stopped)", err=True)
    answer: Answer = turn.answer
    return answer


def _lines() -> Iterator[str]:
    """Lines as they are typed, with editing and history; from a pipe as they come."""
    if not sys.stdin.isatty():
        yield from map(str.strip, sys.stdin)
        return
    from prompt_toolkit import PromptSession

    typed: PromptSession[str] = PromptSession()
    while True:
        try:
            yield typed.prompt("> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _told(answer: Answer, loaded: float) -> str:
    """One line about an answer: times, rates, memory."""
    from slmkit.planning.memory import gigabytes
    from slmkit.system.process_memory import peak_memory

    facts = answer.statistics
    reused = f" ({facts.reused_tokens} held already)" if facts.reused_tokens else ""
    peak = peak_memory()
    memory = "not told by this system" if peak is None else gigabytes(peak)
    return (
        f"load {loaded:.2f} s; first token {facts.first_token_s:.2f} s; "
        f"prompt {facts.prompt_tokens} tokens{reused}, {facts.prefill_rate:.0f}/s; "
        f"answer {facts.answer_tokens} tokens, {facts.decode_rate:.1f}/s; "
        f"peak memory {memory}"
    )


def _json_file(path: Path | None, kind: Callable[..., Any]) -> Any:
    """The JSON of a file, which is a list or an object; None without a file."""
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", "check the file") from None
    if not isinstance(found, kind):  # type: ignore[arg-type]
        wanted = "a list" if kind is list else "an object"
        raise UsageError(f"{path} is not {wanted} of JSON", "see `slmkit run --help`")
    return found
