"""Verdicts for continuous integration: JUnit's XML, and a summary where GitHub asks for one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slmkit.cli.options import FILE, Function, in_a_folder
from slmkit.system.junit import Case, suite

if TYPE_CHECKING:
    from slmkit.evaluation.gate import Quality, QualityLine
    from slmkit.parity.metrics import Comparison
    from slmkit.parity.prompts import PromptComparison

SUMMARY = "GITHUB_STEP_SUMMARY"  # the file that GitHub shows beside a job


def junit_option(function: Function) -> Function:
    """--junit FILE; the function gets ``junit``, a path in a folder that exists."""
    return click.option(
        "--junit",
        type=FILE,
        callback=in_a_folder,
        help="Write the verdicts as JUnit's XML, of a failure too.",
    )(function)


def tell_ci(
    title: str,
    found: Sequence[Comparison],
    quality: Quality | None,
    prompts: Sequence[PromptComparison],
    junit: Path | None,
) -> None:
    """Write a file of JUnit if one was asked for, and GitHub's summary if it is there."""
    cases = _cases(found, quality, prompts)
    if junit is not None:
        junit.write_text(suite(f"slmkit {title}", cases), encoding="utf-8")
    if summary := os.environ.get(SUMMARY):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(_markdown(title, cases))


def _cases(
    found: Sequence[Comparison], quality: Quality | None, prompts: Sequence[PromptComparison]
) -> list[Case]:
    proof = [
        Case(
            "slmkit.proof",
            f"{each.artifact} {each.mode}: {each.error}",
            _why(each),
            "",
            each.runtime,
        )
        for each in found
    ]
    text = [
        Case("slmkit.held-out text", f"{each.artifact} {each.mode}", _why(each), "", each.runtime)
        for each in (quality.lines if quality else ())
    ]
    asked = [
        Case("slmkit.prompts", each.artifact, _why(each), "" if each.executed else each.runtime)
        for each in prompts
    ]
    return [*proof, *text, *asked]


def _why(checked: Comparison | QualityLine | PromptComparison) -> str:
    return "; ".join(checked.failures)


def _markdown(title: str, cases: Sequence[Case]) -> str:
    failed = [each for each in cases if each.failure]
    ran = [each for each in cases if not each.skipped]
    rows = [
        f"| {each.group.removeprefix('slmkit.')} | {each.name} | {each.failure} |"
        for each in failed
    ]
    table = ["| check | of | why it failed |", "|---|---|---|", *rows] if rows else []
    head = f"{len(ran) - len(failed)} of {len(ran)} checks passed"
    unrun = [f"- not executed: {each.name}: {each.skipped}" for each in cases if each.skipped]
    return "\n".join([f"### slmkit {title}", "", head, "", *table, *unrun, "", ""])
