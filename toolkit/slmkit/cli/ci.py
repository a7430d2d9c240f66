"""Verdicts for continuous integration: JUnit's XML, and a summary where GitHub asks for one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree  # writes only: nothing of a stranger's is parsed

import click

from slmkit.cli.options import Function

if TYPE_CHECKING:
    from slmkit.evaluation.gate import Quality
    from slmkit.parity.metrics import Comparison
    from slmkit.parity.prompts import PromptComparison

SUMMARY = "GITHUB_STEP_SUMMARY"  # the file that GitHub shows beside a job


@dataclass(frozen=True)
class Verdict:
    """One check of a build or a proof."""

    group: str  # proof, held-out text, prompts
    name: str
    failures: tuple[str, ...] = ()
    skipped: str = ""  # why it was not executed
    about: str = ""  # where it ran


def junit_option(function: Function) -> Function:
    """--junit FILE; the function gets ``junit``, a path in a folder that exists."""
    return click.option(
        "--junit",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=_in_a_folder,
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
    verdicts = _verdicts(found, quality, prompts)
    if junit is not None:
        junit.write_text(_xml(title, verdicts), encoding="utf-8")
    if summary := os.environ.get(SUMMARY):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(_markdown(title, verdicts))


def _verdicts(
    found: Sequence[Comparison], quality: Quality | None, prompts: Sequence[PromptComparison]
) -> list[Verdict]:
    return [
        *(
            Verdict("proof", f"{e.artifact} {e.mode}: {e.error}", e.failures, "", e.runtime)
            for e in found
        ),
        *(
            Verdict("held-out text", f"{e.artifact} {e.mode}", e.failures, "", e.runtime)
            for e in (quality.lines if quality else ())
        ),
        *(
            Verdict("prompts", e.artifact, e.failures, "" if e.executed else e.runtime, e.runtime)
            for e in prompts
        ),
    ]


def _xml(title: str, verdicts: Sequence[Verdict]) -> str:
    suite = ElementTree.Element("testsuite", name=_plain(f"slmkit {title}"))
    for each in verdicts:
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"slmkit.{each.group}", name=_plain(each.name), time="0"
        )
        if each.failures:
            why = _plain("; ".join(each.failures))
            ElementTree.SubElement(case, "failure", message=why, type="parity").text = why
        elif each.skipped:
            ElementTree.SubElement(case, "skipped", message=_plain(each.skipped))
        if each.about:
            ElementTree.SubElement(case, "system-out").text = _plain(each.about)
    suite.set("tests", str(len(verdicts)))
    suite.set("failures", str(sum(bool(each.failures) for each in verdicts)))
    suite.set("skipped", str(sum(bool(each.skipped and not each.failures) for each in verdicts)))
    suite.set("errors", "0")
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _markdown(title: str, verdicts: Sequence[Verdict]) -> str:
    failed = [each for each in verdicts if each.failures]
    ran = [each for each in verdicts if not each.skipped]
    rows = [f"| {each.group} | {each.name} | {'; '.join(each.failures)} |" for each in failed]
    table = ["| check | of | why it failed |", "|---|---|---|", *rows] if rows else []
    head = f"{len(ran) - len(failed)} of {len(ran)} checks passed"
    unrun = [f"- not executed: {each.name}: {each.skipped}" for each in verdicts if each.skipped]
    return "\n".join([f"### slmkit {title}", "", head, "", *table, *unrun, "", ""])


def _in_a_folder(
    context: click.Context, parameter: click.Parameter, value: Path | None
) -> Path | None:
    if value is not None and not value.absolute().parent.is_dir():
        raise click.UsageError(f"--junit {value}: there is no such folder")
    return value


def _plain(text: str) -> str:
    """Without characters that XML cannot hold."""
    return "".join(each for each in text if each in "\t\n\r" or each >= " ")
