"""What the commands share: options, tables or JSON, errors as ``Error:`` and ``hint:``."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slmkit.errors import SlmkitError

if TYPE_CHECKING:
    from slmkit.planning.plan import Request

FOLDER = click.Path(path_type=Path)
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into ``Error:`` and ``hint:`` with exit code 1."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except SlmkitError as error:
            fail(error)
        except KeyboardInterrupt:
            click.echo("interrupted; nothing was left behind", err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.exit(1)
        except OSError as error:
            fail(SlmkitError(f"the system refused: {error}", "check disk space and permissions"))
        except MemoryError:
            fail(SlmkitError("this computer's memory is full", "close other programs"))

    return wrapped


def json_option(function: Callable[..., None]) -> Callable[..., None]:
    """--json wherever a table is shown."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(
        function
    )


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """What is built, for what, and how."""
    for option in (
        click.option(
            "--context", type=int, help="Context length in tokens [default: the recipe's]."
        ),
        click.option(
            "--recipe", default="int4", show_default=True, help="Recipe name or YAML file."
        ),
        click.option(
            "--model", type=FOLDER, help="Checkpoint folder [default: the sample model home]."
        ),
        click.option("--target", required=True, help="What to build for: see `slmkit targets`."),
    ):
        function = option(function)
    return function


def build_options(function: Callable[..., None]) -> Callable[..., None]:
    """``model_options``, and what decides which artifacts there are and whether they fit."""
    for option in (
        click.option(
            "--soc", help="Chips to compile hexagon for: sm8550,sm8650 [default: the recipe's]."
        ),
        click.option("--artifacts", help="Only these artifacts, separated by commas."),
        click.option(
            "--memory-limit", type=float, help="GB that an app may use [default: the target's]."
        ),
    ):
        function = option(function)
    return model_options(function)


def request_of(
    target: str,
    model: Path | None,
    recipe: str,
    context: int | None,
    memory_limit: float | None,
    artifacts: str | None,
    soc: str | None,
    **more: Any,
) -> Request:
    """What ``build_options`` were given."""
    from slmkit.checkpoint.folder import SAMPLE_MODEL
    from slmkit.planning.plan import Request

    return Request(
        model or SAMPLE_MODEL,
        target,
        recipe,
        context=context,
        artifacts=_names(artifacts),
        memory_limit=None if memory_limit is None else int(memory_limit * 10**9),
        socs=_names(soc),
        **more,
    )


def _names(text: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def cache_options(function: Callable[..., None]) -> Callable[..., None]:
    """Where intermediate results are kept."""
    folder = click.option(
        "--cache",
        type=FOLDER,
        help="Folder for codes and artifacts [default: $SLMKIT_CACHE or ~/.cache/slmkit].",
    )
    none = click.option("--no-cache", is_flag=True, help="Keep nothing beyond this command.")
    return folder(none(function))


def chosen_cache(folder: Path | None, none: bool) -> Path | None:
    """The folder of ``cache_options``; None for no cache."""
    from slmkit.system.cache import default_folder

    return None if none else folder or default_folder()


def print_tables(*things: Any) -> None:
    """Tables and lines to stdout."""
    from slmkit.cli.console import printed

    printed(*things)


def print_json(values: Any) -> None:
    """Data to stdout."""
    click.echo(json.dumps(values, indent=2, ensure_ascii=False))


def fail(error: SlmkitError) -> None:
    """Say what is wrong and what to do, and exit."""
    click.echo(f"Error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
    sys.exit(1)
