"""The command that begins a project: init writes slmkit.toml and a recipe for a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slmkit.cli import completion
from slmkit.cli.defaults import OWN
from slmkit.cli.options import (
    FOLDER,
    MODEL_HELP,
    command,
    json_option,
    print_json,
    print_tables,
    split_names,
)
from slmkit.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from slmkit.workflows.estimate import Estimate

RECIPE, NAME = "recipe.yaml", "own"  # the recipe's file and name
FIRST = "int4"  # the recipe that is proposed, if it fits


@click.command()
@click.option("--model", type=FOLDER, help=MODEL_HELP)
@click.option("--target", shell_complete=completion.targets, help="What to build for.")
@click.option(
    "--recipe",
    shell_complete=completion.recipes,
    help="The shipped recipe to begin with [default: int4, else the smallest that fits].",
)
@click.option("--context", type=click.IntRange(16), help="Context length in tokens.")
@click.option("--artifacts", shell_complete=completion.artifacts, help="Only these artifacts.")
@click.option("--phones", help="Phones that must carry every artifact, separated by commas.")
@click.option("--force", is_flag=True, help="Replace slmkit.toml and recipe.yaml.")
@json_option
@command
def init(
    model: Path | None,
    target: str | None,
    recipe: str | None,
    context: int | None,
    artifacts: str | None,
    phones: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write slmkit.toml and recipe.yaml for a model: which recipe fits which phone.

    On a terminal it asks for what the options leave open; elsewhere --target is needed.
    """
    from slmkit import api
    from slmkit.checkpoint.folder import SAMPLE_MODEL
    from slmkit.cli.tables.fitting import fitting_table
    from slmkit.recipe.recipe import shipped_names

    _refuse_older(force)
    asking = sys.stdin is not None and sys.stdin.isatty() and not as_json
    model = _asked_model() if model is None and asking else model
    target = _target(target, asking)
    names = split_names(phones)
    limit = _limit(target, names) if names else None
    asked: dict[str, Any] = {
        "context": context,
        "artifacts": split_names(artifacts),
        "phones": names or None,
    }
    asked |= {"model": model or SAMPLE_MODEL, "target": target, "memory_limit": limit}
    found = {name: api.estimate(recipe=name, **asked) for name in shipped_names()}
    if not as_json:
        print_tables(fitting_table(list(found.values())))
    fitting = [name for name, each in found.items() if not _reasons(each)]
    proposed = _proposed(found, fitting)
    if recipe is None and asking and proposed:
        recipe = click.prompt("recipe", type=click.Choice(list(found)), default=proposed)
    chosen = _chosen(recipe or proposed, found, fitting)
    build: dict[str, Any] = {} if model is None else {"model": str(model)}
    build |= {"target": target, "recipe": RECIPE}
    build |= {"artifacts": artifacts} if artifacts else {}
    build |= {"memory-limit": limit / 10**9} if limit else {}
    texts = {RECIPE: recipe_text(chosen), OWN: toml_text(build)}
    _write(texts)
    if as_json:
        return print_json({"files": list(texts), "build": build, "recipe": chosen.recipe})
    print_tables(f"{OWN} and {RECIPE} are written: slmkit plan and slmkit build read them")


def toml_text(build: dict[str, Any]) -> str:
    """slmkit.toml with the same defaults for a build and for its plan. ``build``: strings and
    numbers by option."""
    lines = [f"{key} = {_toml(value)}" for key, value in build.items()]
    head = "# Defaults of options: words on the command line go before them."
    return "\n".join([head, "[build]", *lines, "", "[plan]", *lines, ""])


def recipe_text(found: Estimate) -> str:
    """A recipe of its own that begins as a shipped one, for the model of an estimate."""
    import yaml

    values = {
        "extends": found.recipe,
        "name": NAME,
        "summary": f"{found.recipe} for {found.name} on {found.target}.",
        "context_length": found.context_length,
    }
    head = "# Every key is explained in recipes/README.md; slmkit recipes show fills them all in.\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _toml(value: Any) -> str:
    """A basic string of TOML is one of JSON, but for the character DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _refuse_older(force: bool) -> None:
    for name in (OWN, RECIPE):
        path = Path(name)
        if path.exists() and not path.is_file():
            raise UsageError(f"{name} is no file", "move it away")
        if path.exists() and not force:
            raise UsageError(f"{name} exists", "use --force to replace it")


def _asked_model() -> Path | None:
    from slmkit.checkpoint.folder import SAMPLE_NAME

    said = click.prompt("model: a folder, a .gguf file or org/name", default=SAMPLE_NAME)
    return None if said == SAMPLE_NAME else Path(said)


def _target(given: str | None, asking: bool) -> str:
    from slmkit.backend.registry import find_target, targets

    if given is None and asking:
        names = list(targets())
        return str(click.prompt("target", type=click.Choice(names), default=names[0]))
    if given is None:
        raise UsageError("--target is missing", f"targets: {', '.join(targets())}")
    return find_target(given).name


def _limit(target: str, phones: tuple[str, ...]) -> int:
    """Bytes that an app may use on every one of these phones. Raises UsageError."""
    from slmkit.planning.public_speeds import public_speeds

    figures = public_speeds()
    return min(figures.app_memory(phone) for phone in figures.phones_of(target, phones))


def _reasons(found: Estimate) -> list[str]:
    """Why a build would be refused."""
    return [why for each in found.artifacts for why in each.refused]


def _needs(found: Estimate) -> int:
    return max(each.memory.total for each in found.artifacts)


def _proposed(found: Mapping[str, Estimate], fitting: Sequence[str]) -> str | None:
    if FIRST in fitting:
        return FIRST
    return min(fitting, key=lambda name: _needs(found[name]), default=None)


def _chosen(name: str | None, found: Mapping[str, Estimate], fitting: Sequence[str]) -> Estimate:
    """The estimate of the recipe that was chosen. Raises UsageError, RefusedError."""
    if name is None:
        why = next((why for each in found.values() for why in _reasons(each)), "")
        raise RefusedError(
            f"no shipped recipe fits with every artifact: {why}",
            "leave artifacts out with --artifacts, or shorten the --context",
        )
    if name not in found:
        raise UsageError(f"slmkit ships no recipe {name!r}", f"recipes: {', '.join(found)}")
    found[name].check()
    return found[name]


def _write(texts: Mapping[str, str]) -> None:
    """Write all files or none."""
    written = {Path(name): Path(f".{name}.new") for name in texts}
    try:
        for path, new in written.items():
            new.write_text(texts[path.name], encoding="utf-8")
        for path, new in written.items():
            new.replace(path)
    finally:
        for new in written.values():
            new.unlink(missing_ok=True)
