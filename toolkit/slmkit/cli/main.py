"""Commands: parse, call one function, print. With ``options``, the only place that prints or exits.

Heavy libraries are imported inside the commands: ``slmkit --help`` loads none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slmkit import __version__
from slmkit.cli.inspecting import doctor, inspect, plan, recipes, targets, verify
from slmkit.cli.options import (
    FOLDER,
    build_options,
    cache_options,
    chosen_cache,
    command,
    json_option,
    model_options,
    print_json,
    print_tables,
    request_of,
)
from slmkit.errors import SlmkitError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slmkit")
def main() -> None:
    """Take a small language model to phones, and prove that it arrived."""


@main.command()
@build_options
@click.option(
    "--out", type=FOLDER, default=Path("dist"), show_default=True, help="Folder for the bundle."
)
@click.option(
    "--calibration",
    type=FOLDER,
    help="Text, or JSONL of messages, for ranges of activations [default: the model's, or ours].",
)
@click.option("--force", is_flag=True, help="Replace an older bundle.")
@cache_options
@json_option
@command
def build(cache: Path | None, no_cache: bool, as_json: bool, **asked: Any) -> None:
    """Build a bundle: quantize, emit every artifact, prove each one."""
    from slmkit.bundle.manifest import read_manifest
    from slmkit.cli import tables
    from slmkit.cli.console import shown_progress
    from slmkit.planning.memory import gigabytes
    from slmkit.workflows import build as road

    request = request_of(**asked, cache=chosen_cache(cache, no_cache))
    try:
        with shown_progress() as progress:
            built = road.build(request, progress)
    except road.FailedParity as error:
        _print_parity(error.lines, (), as_json)
        raise
    _print_parity(built.lines, (), as_json, {"bundle": str(built.folder), "bytes": built.size})
    if not as_json:
        said = tables.parity_note(built.lines), tables.residency_note(read_manifest(built.folder))
        print_tables(*filter(None, said), f"bundle {built.folder} ({gigabytes(built.size)})")


@main.command()
@click.argument("bundle", type=FOLDER)
@click.option("--model", type=FOLDER, help="The checkpoint, to compute the references anew.")
@cache_options
@json_option
@command
def parity(
    bundle: Path, model: Path | None, cache: Path | None, no_cache: bool, as_json: bool
) -> None:
    """Prove a bundle again: every artifact against the reference. Exit code 1 if one fails."""
    from slmkit.cli import tables
    from slmkit.cli.console import shown_progress
    from slmkit.workflows.recheck import recheck

    with shown_progress() as progress:
        found = recheck(bundle, model, chosen_cache(cache, no_cache), progress)
    _print_parity(found.lines, found.recorded, as_json)
    if not as_json:
        print_tables(tables.parity_note(found.lines, found.recorded))
    failures = [
        f"{line.artifact} {line.mode}: {why}" for line in found.lines for why in line.failures
    ]
    if failures:
        raise SlmkitError(f"parity failed: {'; '.join(failures)}", "build the bundle again")


@main.command()
@model_options
@click.option("--artifact", help="Which artifact [default: the target's first].")
@cache_options
@json_option
@command
def trace(
    target: str,
    model: Path | None,
    recipe: str,
    context: int | None,
    artifact: str | None,
    cache: Path | None,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Find the first layer in which an artifact leaves the reference. Writes nothing."""
    from dataclasses import asdict

    from slmkit.checkpoint.folder import SAMPLE_MODEL
    from slmkit.cli import tables
    from slmkit.cli.console import shown_progress
    from slmkit.planning.plan import Request
    from slmkit.workflows.layerwise import trace as follow

    request = Request(
        model or SAMPLE_MODEL,
        target,
        recipe,
        context=context,
        artifacts=(artifact,) if artifact else (),
        cache=chosen_cache(cache, no_cache),
    )
    with shown_progress() as progress:
        taps = follow(request, progress)
    if as_json:
        print_json([asdict(tap) for tap in taps])
    else:
        print_tables(tables.trace_table(taps))
    bad = next((tap for tap in taps if not tap.good), None)
    if bad is not None:
        raise SlmkitError(
            f"the artifact leaves the reference at {bad.name}", "please report this as a bug"
        )


@main.command()
@click.argument("bundle", type=FOLDER)
@click.option("--prompt", required=True, help="What to ask; goes through the chat template.")
@click.option("--raw", is_flag=True, help="Use the prompt as it is, without the chat template.")
@click.option(
    "--max-tokens", type=click.IntRange(1), default=256, show_default=True, help="Longest answer."
)
@click.option(
    "--temperature", type=click.FloatRange(0), default=0.0, show_default=True, help="0 is greedy."
)
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of chance to sample from.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sampling."
)
@click.option("--artifact", help="Which artifact [default: the first].")
@click.option("--mode", help="How to run it [default: as it ships].")
@command
def run(
    bundle: Path,
    prompt: str,
    raw: bool,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    artifact: str | None,
    mode: str | None,
) -> None:
    """Answer a prompt with a bundle (or, slowly, with a checkpoint's reference)."""
    from slmkit.inference.generate import Sampler, generate, stream_text
    from slmkit.inference.load import load

    loaded = load(bundle, artifact, mode)
    ids = loaded.tokenizer.prompt_ids(prompt, raw)
    sampler = Sampler(temperature, top_p, seed)
    stop = loaded.tokenizer.stop_ids
    tokens = generate(loaded.runner, ids, stop, max_tokens, sampler, loaded.chunk)
    for piece in stream_text(loaded.tokenizer, tokens):
        click.echo(piece, nl=False)
    click.echo()


@main.command("eval")
@click.argument("path", type=FOLDER)
@click.option(
    "--data", type=FOLDER, help="JSONL of prompt and answer [default: home's held-out file]."
)
@click.option("--limit", type=click.IntRange(1), help="Only the first N examples.")
@click.option("--artifact", help="Which artifact [default: the first].")
@click.option("--mode", help="How to run it [default: as it ships].")
@click.option(
    "--wrong", type=click.IntRange(0), default=0, show_default=True, help="Show N wrong answers."
)
@json_option
@command
def evaluate(
    path: Path,
    data: Path | None,
    limit: int | None,
    artifact: str | None,
    mode: str | None,
    wrong: int,
    as_json: bool,
) -> None:
    """Exact match on held-out prompts: of a bundle, or of a checkpoint's reference."""
    from dataclasses import asdict

    from slmkit.cli import tables
    from slmkit.cli.console import shown_progress
    from slmkit.inference import evaluate as scoring
    from slmkit.inference.load import load

    examples = scoring.read_examples(data or scoring.HELD_OUT)[:limit]
    loaded = load(path, artifact, mode)
    with shown_progress() as progress:
        score = scoring.evaluate(loaded.runner, loaded.tokenizer, examples, loaded.chunk, progress)
    if as_json:
        return print_json(asdict(score))
    print_tables(tables.score_table(score, loaded.about))
    for prompt, expected, got in score.wrong[:wrong]:
        click.echo(f"{prompt}\n  expected {expected}\n  got      {got}")


for each in (inspect, plan, verify, recipes, targets, doctor):
    main.add_command(each)


def _print_parity(
    lines: Any, recorded: Any, as_json: bool, more: dict[str, Any] | None = None
) -> None:
    from slmkit.cli import tables

    if as_json:
        print_json(
            {
                **(more or {}),
                "passed": not any(line.failures for line in lines),
                "lines": [line.as_json() for line in lines],
                "recorded": [line.as_json() for line in recorded],
            }
        )
    else:
        print_tables(tables.parity_table(lines, recorded))
