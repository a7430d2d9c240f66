"""JUnit's XML, which continuous integration shows: a test of each run's tokens, speeds as
properties. Wrong tokens are failures; what was not executed is skipped, with the reason."""

from __future__ import annotations

from xml.etree import ElementTree  # writes only: nothing of a stranger's is parsed

from slmkit.devices.report import DeviceReport, Run


def exported(report: DeviceReport) -> str:
    """One suite, named by the device."""
    device = report.device
    suite = ElementTree.Element("testsuite", name=f"slmkit bench, {device.where}, {device.model}")
    for run in report.runs:
        suite.append(_case(report, run))
    for said in report.not_executed:
        name, _, why = said.partition(": ")
        case = ElementTree.SubElement(
            suite, "testcase", classname=report.model, name=name, time="0"
        )
        ElementTree.SubElement(case, "skipped", message=_plain(why or said))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(report.wrong)))
    suite.set("errors", "0")
    suite.set("skipped", str(len(report.not_executed)))
    suite.set("timestamp", report.time)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _case(report: DeviceReport, run: Run) -> ElementTree.Element:
    longest = run.warm[-1]
    seconds = longest.first_token_ms.median / 1000 + longest.decoded / longest.decode.median
    case = ElementTree.Element(
        "testcase", classname=_plain(report.model), name=_plain(run.name), time=f"{seconds:.4f}"
    )
    properties = ElementTree.SubElement(case, "properties")
    for name, value in _values(run).items():
        ElementTree.SubElement(properties, "property", name=name, value=_plain(value))
    if run.tokens is not None and not run.tokens.passed:
        why = _plain("; ".join(run.tokens.failures))
        ElementTree.SubElement(case, "failure", message=why, type="parity").text = why
    elif run.tokens is None:
        ElementTree.SubElement(
            case, "system-out"
        ).text = "a peer's model: its tokens were not compared"
    return case


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


def _plain(text: str) -> str:
    """Without characters that XML cannot hold."""
    return "".join(each for each in text if each in "\t\n\r" or each >= " ")
