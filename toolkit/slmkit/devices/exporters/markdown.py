"""A Markdown table, for a page or an issue: a row for each model and length of prompt."""

from __future__ import annotations

from slmkit.devices.report import DeviceReport, Run, Speed, spread_text, tokens_text
from slmkit.planning.memory import gigabytes

HEADER = (
    "| rank | model | runtime | threads | prompt | prefill, tokens/s | first token, ms "
    "| decode, tokens/s | load, s | peak memory | tokens |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def exported(report: DeviceReport) -> str:
    """The device, the warm answers, and what was not executed."""
    device = report.device
    lines = [
        f"{report.model}, recipe {report.recipe}, on {device.model} ({device.os}, {device.abi}, "
        f"{device.cores} cores), slmkit {report.slmkit}: medians, with the spread",
        "",
        HEADER,
        *(_row(run, speed) for run in report.runs for speed in run.warm),
        "",
        *(f"- not executed: {said}" for said in report.not_executed),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(run: Run, speed: Speed) -> str:
    cells = (
        "" if run.rank is None else str(run.rank),
        f"{run.name} (peer)" if run.peer else run.name,
        run.runtime,
        str(run.threads),
        f"{speed.prompt} + {speed.decoded}",
        spread_text(speed.prefill),
        spread_text(speed.first_token_ms),
        spread_text(speed.decode),
        spread_text(run.load_s),
        "" if run.memory_peak is None else gigabytes(run.memory_peak),
        _tokens(run),
    )
    return "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |"


def _tokens(run: Run) -> str:
    if run.tokens is None:
        return "not compared"
    found = tokens_text(run.tokens)
    return found if run.tokens.passed else f"**wrong**: {found}"
