"""Parts that commands share: options, tables or JSON, errors as ``Error:`` and ``hint:``."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from slmkit.cli import completion
from slmkit.errors import INTERRUPTED, SIGNALLED, SlmkitError, UsageError
from slmkit.system.signals import cleaned_up, signal_number

FOLDER = click.Path(path_type=Path)
FILE = click.Path(path_type=Path, dir_okay=False)  # to be written
MODEL_HELP = "Checkpoint folder, .gguf file or org/name of the hub [default: the model home]."
Function = Callable[..., None]


def command(function: Function) -> Function:
    """Turn errors into ``Error:`` and ``hint:`` (or JSON) and the exit code of their class."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            with cleaned_up():
                function(*args, **kwargs)
                if sys.stdout is not None:  # closed by whoever started us
                    sys.stdout.flush()
        except SlmkitError as error:
            fail(error, as_json)
        except KeyboardInterrupt as error:
            with contextlib.suppress(OSError):  # the terminal is gone, after SIGHUP
                click.echo("interrupted; nothing was left behind", err=True)
            sys.exit(SIGNALLED + signal_number(error))
        except BrokenPipeError:  # who read stdout has gone
            _give_up_stdout()
            sys.exit(1)
        except OSError as error:
            hint = "check disk space and permissions"
            fail(SlmkitError(f"the system refused: {error}", hint), as_json)
        except MemoryError:
            fail(SlmkitError("this computer's memory is full", "close other programs"), as_json)

    return wrapped


class Group(click.Group):
    """Commands whose usage errors are JSON too, if ``--json`` is on the command line."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **more: Any
    ) -> Any:
        """Run the command line, as ``click.Group.main``."""
        words = sys.argv[1:] if args is None else list(args)
        if not standalone_mode or "--json" not in words:
            return super().main(args, standalone_mode=standalone_mode, **more)
        try:
            return super().main(args, standalone_mode=False, **more)
        except click.UsageError as error:
            fail(UsageError(error.format_message()), True)
        except click.exceptions.Exit as end:
            sys.exit(end.exit_code)
        except click.Abort:
            sys.exit(INTERRUPTED)


def json_option(function: Function) -> Function:
    """--json wherever a table is shown."""
    option = click.option(
        "--json", "as_json", is_flag=True, help="Print JSON instead of a table, of errors too."
    )
    return option(function)


def adapter_option(function: Function) -> Function:
    """--adapter wherever a checkpoint is read; the function gets ``adapters``."""
    option = click.option(
        "--adapter",
        "adapters",
        type=FOLDER,
        multiple=True,
        help="A LoRA adapter of PEFT to merge into the model; may be repeated, in order.",
    )
    return option(function)


def model_options(function: Function) -> Function:
    """Model, adapters, target, recipe and context length."""
    for option in (
        click.option(
            "--context", type=int, help="Context length in tokens [default: the recipe's]."
        ),
        click.option(
            "--recipe",
            default="int4",
            show_default=True,
            shell_complete=completion.recipes,
            help="Recipe name or YAML file.",
        ),
        adapter_option,
        click.option(
            "--model",
            type=FOLDER,
            help=MODEL_HELP,
        ),
        click.option(
            "--target",
            required=True,
            shell_complete=completion.targets,
            help="What to build for: see `slmkit targets`.",
        ),
    ):
        function = option(function)
    return function


def build_options(function: Function) -> Function:
    """``model_options``, and those that decide which artifacts there are and whether they fit.

    The function gets the backends' options as ``options``: by artifact, then by key.
    """
    aliases = _aliases()

    @functools.wraps(function)
    def gathered(option: tuple[str, ...], **asked: Any) -> None:
        found: dict[str, dict[str, Any]] = {}
        for artifact, alias in aliases:
            value = asked.pop(_parameter(alias.flag))
            if value is not None:
                chosen = split_names(value) if alias.several else _parsed(value)
                found.setdefault(artifact, {})[alias.key] = chosen
        for text in option:
            artifact, key, value = _assignment(text)
            found.setdefault(artifact, {})[key] = value
        function(**asked, options=found)

    wrapped: Function = gathered
    for _, alias in aliases:
        wrapped = click.option(alias.flag, _parameter(alias.flag), help=alias.help)(wrapped)
    for each in (
        click.option(
            "--option",
            multiple=True,
            metavar="ARTIFACT.KEY=VALUE",
            help="An option of one artifact, as in a recipe; may be repeated.",
        ),
        click.option(
            "--requantize",
            is_flag=True,
            help="Make codes anew by the recipe where the checkpoint brings some.",
        ),
        click.option(
            "--artifacts",
            shell_complete=completion.artifacts,
            help="Only these artifacts, separated by commas.",
        ),
        click.option(
            "--memory-limit", type=float, help="GB that an app may use [default: the target's]."
        ),
    ):
        wrapped = each(wrapped)
    return model_options(wrapped)


def request_arguments(
    model: Path | None,
    memory_limit: float | None,
    artifacts: str | None,
    **more: Any,
) -> dict[str, Any]:
    """``build_options`` as arguments of the public API."""
    from slmkit.checkpoint.folder import SAMPLE_MODEL

    return {
        "model": model or SAMPLE_MODEL,
        "memory_limit": None if memory_limit is None else _bytes(memory_limit),
        "artifacts": split_names(artifacts),
        **more,
    }


def _bytes(gigabytes: float) -> int:
    if not 0 < gigabytes < math.inf:  # not for NaN either
        raise UsageError(
            f"--memory-limit {gigabytes:g} is no amount of memory", "give GB, such as 2.5"
        )
    return int(gigabytes * 10**9)


def split_names(text: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def cache_options(function: Function) -> Function:
    """Where intermediate results are kept."""
    folder = click.option(
        "--cache",
        type=FOLDER,
        help="Folder for codes and artifacts [default: $SLMKIT_CACHE or ~/.cache/slmkit].",
    )
    none = click.option("--no-cache", is_flag=True, help="Keep nothing beyond this command.")
    return folder(none(function))


def chosen_cache(folder: Path | None, none: bool) -> Path | bool:
    """``cache_options`` as the public API's argument."""
    return False if none else folder or True


def in_a_folder(
    context: click.Context, parameter: click.Parameter, value: Path | None
) -> Path | None:
    """The callback of an option for a file to be written: its folder must exist."""
    if value is not None and not value.absolute().parent.is_dir():
        raise click.UsageError(f"{parameter.opts[0]} {value}: there is no such folder")
    return value


def print_tables(*things: Any) -> None:
    """Tables and lines to stdout."""
    from slmkit.cli.console import printed

    printed(*things)


def print_json(values: Any) -> None:
    """Data to stdout."""
    click.echo(json.dumps(values, indent=2, ensure_ascii=False))


def fail(error: SlmkitError, as_json: bool = False) -> NoReturn:
    """Say what is wrong and what to do, and exit with the error's code."""
    if as_json:
        told = {
            "kind": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        print_json({**error.details, "error": told})
    else:
        click.echo(f"Error: {error.message}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
    sys.exit(error.exit_code)


def _give_up_stdout() -> None:
    """Let Python write what it still holds for stdout to nowhere, at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _aliases() -> list[tuple[str, Any]]:
    """The backends' own options on the command line, each with its artifact."""
    from slmkit.backend.registry import declarations

    return [
        (artifact, alias)
        for artifact, declared in declarations().items()
        for alias in declared.command_options
    ]


def _parameter(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _assignment(text: str) -> tuple[str, str, Any]:
    """``name.key=2`` -> ("name", "key", 2)."""
    name, equals, value = text.partition("=")
    artifact, dot, key = name.partition(".")
    if not (equals and dot and artifact and key):
        raise click.UsageError(f"--option {text}: expected ARTIFACT.KEY=VALUE")
    return artifact, key, _parsed(value)


def _parsed(value: str) -> Any:
    """A value as a recipe would have it: YAML."""
    import yaml

    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise click.UsageError(f"{value!r} is no YAML value") from None
