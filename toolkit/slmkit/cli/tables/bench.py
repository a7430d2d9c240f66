"""The tables of a benchmark, as rich renderables. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from rich.table import Table
from rich.text import Text

from slmkit.devices.report import DeviceReport, Run, Speed, spread_text, tokens_text
from slmkit.planning.memory import gigabytes

NOTHING = "-"


def bench_shown(report: DeviceReport) -> tuple[Table | Text, ...]:
    """Each model, then its speeds, cold and warm, then what did not run."""
    return (
        _models(report),
        _speeds(report),
        *(Text(line) for line in _notes(report)),
    )


def _models(report: DeviceReport) -> Table:
    device = report.device
    title = (
        f"{report.model}, recipe {report.recipe}, on {device.model} ({device.os}, {device.abi}, "
        f"{device.cores} cores)"
    )
    table = Table(title=title, title_justify="left")
    for column in ("rank", "model", "runtime", "files", "load, s", "peak memory", "tokens"):
        table.add_column(column, justify="left" if column in ("model", "runtime") else "right")
    for run in report.runs:
        table.add_row(
            NOTHING if run.rank is None else str(run.rank),
            f"{run.name} (peer)" if run.peer else f"{run.name} {run.mode}",
            f"{run.runtime}, {run.threads} threads",
            gigabytes(run.size),
            spread_text(run.load_s),
            _memory(run),
            _tokens(run),
        )
    return table


def _speeds(report: DeviceReport) -> Table:
    table = Table(title="tokens/s, median (spread)", title_justify="left")
    for column in ("model", "", "prompt", "prefill", "first token, ms", "decode"):
        table.add_column(column, justify="left" if column in ("model", "") else "right")
    for run in report.runs:
        mark = "" if run.tokens is None or run.tokens.passed else "[red]wrong[/] "
        table.add_row(f"{mark}{run.name}", "cold", *_speed(run.cold))
        for speed in run.warm:
            table.add_row("", "warm", *_speed(speed))
    return table


def _speed(speed: Speed) -> tuple[str, ...]:
    columns = (speed.prefill, speed.first_token_ms, speed.decode)
    return (f"{speed.prompt} + {speed.decoded}", *map(spread_text, columns))


def _memory(run: Run) -> str:
    if run.memory_peak is None:
        return NOTHING
    before = "" if run.memory_before is None else f", {gigabytes(run.memory_before)} before"
    return f"{gigabytes(run.memory_peak)}{before}"


def _tokens(run: Run) -> str:
    if run.tokens is None:
        return "not compared"
    found = tokens_text(run.tokens)
    return found if run.tokens.passed else f"[red]wrong[/] {found}"


def _overlap(faster: Run, slower: Run) -> bool:
    """Whether the slower one was as fast in one of its runs as the other in one of its own."""
    return max(slower.warm[-1].decode.runs) >= min(faster.warm[-1].decode.runs)


def _notes(report: DeviceReport) -> Iterator[str]:
    yield (
        "cold: the first answer of a new process, its files in the system's cache. Tokens: those "
        "that are the reference's, greedy ones until the first other one, and SNR of the logits"
    )
    if report.device.emulated:
        yield f"computed by {report.device.emulated}: these times are of no silicon"
    for run in report.runs:
        yield from run.notices
    for run in report.wrong:
        for why in run.tokens.failures if run.tokens else ():
            yield f"{run.name} is wrong and not ranked: {why}"
    cores = report.device.cores
    if report.busy is not None and report.busy > cores / 2:
        yield f"this computer was busy: a load of {report.busy:.1f} on {cores} cores"
    ranks = [run for run in report.runs if run.rank is not None]
    if any(_overlap(*pair) for pair in pairwise(ranks)):
        yield "ranks are by the median of decoding; some ranges overlap, so they may be chance"
    if any(run.peer for run in report.runs):
        yield "a peer's weights are others: its tokens are not compared, and it has no rank"
    for said in report.not_executed:
        yield f"not executed: {said}"
