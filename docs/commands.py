"""Write the page of the command line from the commands themselves: python docs/commands.py"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from slmkit.cli.main import main
from slmkit.errors import EXIT_CODES

PAGE = Path(__file__).parent / "pages" / "cli.md"
GROUPS = {  # the commands in the order in which one needs them
    "Before a build": ("init", "inspect", "plan", "sensitivity", "recipes", "targets", "doctor"),
    "Build and prove": ("build", "parity", "trace", "verify", "sign", "sbom"),
    "Use a bundle": ("run", "bench", "device", "eval", "compare"),
    "Into an app": ("export", "app"),
}
INTRODUCTION = """\
# The command line

<!-- written by docs/commands.py: change the commands, then run it again -->

`slmkit COMMAND --help` prints the same. Data goes to stdout, progress and errors to stderr. Every
command that shows a table has `--json`.

## Exit codes

| code | meaning |
|---|---|
{codes}

An error is two lines: `Error:` says what is wrong and where, `hint:` what to do. Under `--json` it
is the object `error`, with `kind`, `message`, `hint` and `exit_code`, beside what was found so far.
The kinds are the exception classes of [the Python API](python-api.md).
"""


def page() -> str:
    """The whole page, as Markdown."""
    names = {name for group in GROUPS.values() for name in group}
    groups = {**GROUPS, "Other": tuple(name for name in main.commands if name not in names)}
    codes = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    lines = [INTRODUCTION.format(codes=codes)]
    for title, commands in groups.items():
        if commands:
            lines.append(f"## {title}\n")
        for name in commands:
            lines += _command(main.commands[name], f"slmkit {name}")
    return "\n".join(lines).rstrip() + "\n"


def _command(command: click.Command, name: str) -> Iterator[str]:
    """A section: what it does, how it is called, its options; then its subcommands."""
    with click.Context(command, info_name=name) as context:
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        records = [
            param.get_help_record(context)
            for param in command.params
            if isinstance(param, click.Option)
        ]
    yield f"### {name}\n"
    yield _text(command.help or "") + "\n"
    yield f"```\n{usage}\n```\n"
    if any(records):
        yield "| option | |\n|---|---|"
        for record in filter(None, records):
            yield f"| `{record[0]}` | {_cell(record[1])} |"
        yield ""
    for inner, each in getattr(command, "commands", {}).items():
        yield from _command(each, f"{name} {inner}")


def _text(text: str) -> str:
    """A docstring's paragraphs, each on one line."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\b", "").strip())
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
