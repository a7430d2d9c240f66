"""A device's report in forms that other programs read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slmkit.devices.exporters import executorch, junit, llama_bench, markdown
from slmkit.devices.report import DeviceReport
from slmkit.errors import UsageError

FORMS: Mapping[str, Callable[[DeviceReport], str]] = {
    "llama-bench": llama_bench.exported,
    "executorch": executorch.exported,
    "junit": junit.exported,
    "markdown": markdown.exported,
}


def exported(report: DeviceReport, form: str) -> str:
    """The report in one of the forms. Raises UsageError for another."""
    if form not in FORMS:
        raise UsageError(f"there is no form {form!r}", f"forms: {', '.join(FORMS)}")
    return FORMS[form](report)
