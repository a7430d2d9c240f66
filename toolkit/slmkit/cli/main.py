"""Commands: parse, call one function of the public API, print. With ``options``, the only place
that prints or exits.

Heavy libraries are imported inside the commands: ``slmkit --help`` loads none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slmkit import __version__
from slmkit.cli.ci import junit_option, tell_ci
from slmkit.cli.commands.adapting import adapter
from slmkit.cli.commands.app import app
from slmkit.cli.commands.benching import bench
from slmkit.cli.commands.caching import caching
from slmkit.cli.commands.comparing import compare
from slmkit.cli.commands.device import LOCAL, device, on_app_options, parity_on, refuse_elsewhere
from slmkit.cli.commands.evaluating import evaluate, sensitivity
from slmkit.cli.commands.inspecting import LOOKING
from slmkit.cli.commands.listing import sbom
from slmkit.cli.commands.starting import init
from slmkit.cli.commands.talking import chat, run, serve
from slmkit.cli.commands.vouching import sign, verify
from slmkit.cli.defaults import defaults
from slmkit.cli.options import (
    FOLDER,
    Group,
    adapter_option,
    build_options,
    cache_options,
    chosen_cache,
    command,
    json_option,
    model_options,
    print_json,
    print_tables,
    request_arguments,
)
from slmkit.cli.work import Work, work_options
from slmkit.errors import SlmkitError

if TYPE_CHECKING:
    from slmkit.evaluation.gate import Quality
    from slmkit.parity.metrics import Comparison
    from slmkit.parity.prompts import PromptComparison

    Comparisons = tuple[Comparison, ...]
    Prompts = tuple[PromptComparison, ...]


@click.group(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SLMKIT"},
)
@click.version_option(__version__, prog_name="slmkit")
@click.pass_context
def main(context: click.Context) -> None:
    """Take a small language model to phones, and prove that it arrived."""
    context.default_map = defaults(main, Path.cwd())


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
@click.option("--chat-template", help="Which one of the model's several chat templates.")
@click.option("--force", is_flag=True, help="Replace an older bundle.")
@click.option(
    "--keep-failed",
    is_flag=True,
    help="Keep a bundle that breaks a bound, as NAME.failed, to look at: nothing ships it.",
)
@click.option("--details", is_flag=True, help="Print every comparison, as `slmkit parity` does.")
@junit_option
@work_options
@cache_options
@json_option
@command
def build(
    cache: Path | None,
    no_cache: bool,
    as_json: bool,
    details: bool,
    junit: Path | None,
    work: Work,
    **asked: Any,
) -> None:
    """Build a bundle: quantize, emit every artifact, prove each one."""
    from slmkit import api
    from slmkit.cli.tables.parity import parity_note, report_note
    from slmkit.cli.tables.quality import calibration_notes
    from slmkit.cli.tables.summary import next_steps, summary_table, warnings_note
    from slmkit.planning.memory import gigabytes
    from slmkit.workflows.build import FailedParity

    arguments = {**request_arguments(**asked), "limits": work.limits}
    try:
        with work.shown() as progress:
            bundle = api.build(**arguments, cache=chosen_cache(cache, no_cache), progress=progress)
    except FailedParity as error:
        tell_ci("build", error.comparisons, error.quality, error.prompts, junit)
        _show_parity(error.comparisons, (), error.quality, as_json, error, prompts=error.prompts)
        raise
    quality = bundle.manifest.quality
    tell_ci("build", bundle.parity, quality, bundle.manifest.prompts, junit)
    if as_json:
        about: dict[str, Any] = {"bundle": str(bundle.path), "bytes": bundle.size}
        about["notices"] = bundle.manifest.notices
        found = _parity_json(bundle.parity, (), quality, bundle.manifest.prompts)
        return print_json({**about, **found})
    if work.quiet:
        return print_tables(str(bundle.path))
    if details:
        _show_parity(bundle.parity, (), quality, as_json, prompts=bundle.manifest.prompts)
        print_tables(*calibration_notes(bundle.manifest))
        print_tables(*filter(None, [parity_note(bundle.parity), report_note(bundle.manifest)]))
    notes = filter(None, [warnings_note(bundle.manifest)])
    print_tables("", summary_table(bundle.manifest), *notes)
    print_tables(next_steps(bundle.manifest, bundle.path))
    print_tables(f"bundle {bundle.path} ({gigabytes(bundle.size)})")


@main.command()
@click.argument("bundle", type=FOLDER)
@click.option("--model", type=FOLDER, help="The checkpoint, to compute the references anew.")
@click.option("--artifacts", help="With --on: only these, separated by commas.")
@on_app_options
@adapter_option
@junit_option
@work_options
@cache_options
@json_option
@command
def parity(
    work: Work,
    bundle: Path,
    model: Path | None,
    artifacts: str | None,
    on: str,
    app_id: str | None,
    adapters: tuple[Path, ...],
    junit: Path | None,
    cache: Path | None,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Prove a bundle again: every artifact against the reference. Exit code 3 if one fails.

    With --on the artifacts run on another machine, as they ship, and the report of that device
    joins the bundle: proof/devices/.
    """
    if on != LOCAL:
        refuse_elsewhere(on, model=model, adapter=adapters)
        return parity_on(bundle, on, artifacts, app_id, junit, as_json)
    refuse_elsewhere(on, artifacts=artifacts, app=app_id)
    from slmkit import api
    from slmkit.cli.tables.parity import parity_note

    opened, where = api.Bundle(bundle), chosen_cache(cache, no_cache)
    with work.shown() as progress:
        found = opened.recheck(
            model, adapters=adapters, limits=work.limits, cache=where, progress=progress
        )
    tell_ci("parity", found.comparisons, found.quality, found.prompts, junit)
    report, kept = (found.comparisons, found.recorded, found.quality), opened.manifest.quality
    try:
        found.check()
    except api.ParityError as error:
        _show_parity(*report, as_json, error, kept=kept, prompts=found.prompts)
        raise
    if as_json:
        return print_json(_parity_json(*report, found.prompts))
    if work.quiet:
        return None
    _show_parity(*report, as_json, kept=kept, prompts=found.prompts)
    print_tables(parity_note(found.comparisons, found.recorded))


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
    adapters: tuple[Path, ...],
    cache: Path | None,
    no_cache: bool,
    as_json: bool,
) -> None:
    """Find the first layer in which an artifact leaves the reference. Writes nothing."""
    from slmkit import api
    from slmkit.checkpoint.folder import SAMPLE_MODEL
    from slmkit.cli.console import shown_progress
    from slmkit.cli.tables.parity import layers_table
    from slmkit.workflows.layerwise import tap_to_json

    with shown_progress() as progress:
        taps = api.compare_layers(
            model or SAMPLE_MODEL,
            target=target,
            recipe=recipe,
            context=context,
            artifact=artifact,
            adapters=adapters,
            cache=chosen_cache(cache, no_cache),
            progress=progress,
        )
    bad = next((tap for tap in taps if not tap.good), None)
    rows = [tap_to_json(tap) for tap in taps]
    if bad is None:
        return print_json(rows) if as_json else print_tables(layers_table(taps))
    if not as_json:
        print_tables(layers_table(taps))
    error = api.ParityError(
        f"the artifact leaves the reference at {bad.name}", "please report this as a bug"
    )
    error.details = {"layers": rows}
    raise error


for each in (
    adapter,
    app,
    bench,
    caching,
    chat,
    compare,
    device,
    evaluate,
    init,
    run,
    sensitivity,
    sbom,
    serve,
    sign,
    verify,
    *LOOKING,
):
    main.add_command(each)


def _show_parity(
    found: Comparisons,
    recorded: Comparisons,
    quality: Quality | None,
    as_json: bool,
    error: SlmkitError | None = None,
    kept: Quality | None = None,
    prompts: Prompts = (),
) -> None:
    """The tables; or, as JSON, the report in the error's details. ``kept``: the build's report,
    where nothing was measured again."""
    from slmkit.cli.tables.parity import parity_table, prompts_note, prompts_table
    from slmkit.cli.tables.quality import quality_note, quality_table

    if not as_json:
        if found or recorded:
            print_tables(parity_table(found, recorded, quality or kept))
        if quality is not None and quality.lines:
            print_tables("", quality_table(quality))
        if quality is not None:
            print_tables(quality_note(quality))
        if prompts:
            print_tables("", prompts_table(prompts), *filter(None, [prompts_note(prompts)]))
    elif error is not None:
        error.details = _parity_json(found, recorded, quality, prompts)


def _parity_json(
    found: Comparisons, recorded: Comparisons, quality: Quality | None, prompts: Prompts
) -> dict[str, Any]:
    from slmkit.parity.metrics import to_json
    from slmkit.parity.prompts import failures_of_prompts, prompts_to_json

    passed = all(each.passed for each in found) and (quality is None or quality.passed)
    passed = passed and not failures_of_prompts(prompts)
    return {
        "passed": passed,
        "comparisons": [to_json(each) for each in found],
        "recorded": [to_json(each) for each in recorded],
        "quality": None if quality is None else to_json(quality),
        "prompts": [prompts_to_json(each) for each in prompts],
    }
