"""JUnit's XML, which continuous integration shows: a test of each run's tokens, speeds as
properties. Wrong tokens are failures; what was not executed is skipped, with the reason."""

from __future__ import annotations

from slmkit.devices.report import DeviceReport, Run
from slmkit.system.junit import Case, suite


def exported(report: DeviceReport) -> str:
    """One suite, named by the device."""
    device, skipped = report.device, []
    for said in report.not_executed:
        name, _, why = said.partition(": ")
        skipped.append(Case(report.model, name, skipped=why or said))
    cases = [*(_case(report, run) for run in report.runs), *skipped]
    return suite(f"slmkit bench, {device.where}, {device.model}", cases, report.time)


def _case(report: DeviceReport, run: Run) -> Case:
    longest = run.longest
    return Case(
        report.model,
        run.name,
        failure="; ".join(run.tokens.failures) if run.tokens else "",
        about="" if run.tokens else "a peer's model: its tokens were not compared",
        seconds=longest.first_token_ms.median / 1000 + longest.decoded / longest.decode.median,
        properties=_values(run),
    )


def _values(run: Run) -> dict[str, str]:
    """The measured values, as text."""
    found = {
        "runtime": run.runtime,
        "threads": str(run.threads),
        "load_s": f"{run.load_s.median:g}",
        "rank": "none" if run.rank is None else str(run.rank),
    }
    if run.memory_peak is not None:
        found["memory_peak_bytes"] = str(run.memory_peak)
    for speed in run.warm:
        found[f"prefill_tokens_per_s_{speed.prompt}"] = f"{speed.prefill.median:g}"
        found[f"decode_tokens_per_s_{speed.prompt}"] = f"{speed.decode.median:g}"
        found[f"first_token_ms_{speed.prompt}"] = f"{speed.first_token_ms.median:g}"
    return found
