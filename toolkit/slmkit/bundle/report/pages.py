"""report.html and report.md of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from slmkit.backend.registry import find_target
from slmkit.bundle.manifest import Manifest
from slmkit.bundle.pages import render
from slmkit.bundle.report import plots
from slmkit.bundle.report.details import Details, Side
from slmkit.bundle.report.facts import DeviceLine, artifact_facts, cost_text, phone_forecast
from slmkit.parity.wording import decibels_text, number_text
from slmkit.planning.memory import gigabytes
from slmkit.planning.speed_fit import COVERED, speed_text


def markdown_report(
    manifest: Manifest,
    name: str,
    details: Details | None = None,
    devices: Sequence[DeviceLine] = (),
) -> str:
    """report.md of a bundle that is called ``name``; the manifest must list its files.

    ``details``: those that the bundle keeps; without, the pages are shorter.
    """
    return render("report.md", **_values(manifest, name, details), devices=devices)


def html_report(
    manifest: Manifest,
    name: str,
    details: Details | None = None,
    devices: Sequence[DeviceLine] = (),
) -> str:
    """report.html: one file that loads nothing, for light and dark screens of any width.

    ``details``: those that the bundle keeps; without, the page is shorter.
    """
    values = _values(manifest, name, details)
    found, limit = values["artifacts"], find_target(manifest.target).memory_limit
    drawn = {
        "ladder": plots.ladder(found),
        "sizes": plots.sizes(found),
        "memory": plots.memory(
            {each.name: each.memory for each in manifest.artifacts}, {"the target's limit": limit}
        ),
        "stages": plots.stages(manifest.stages) if manifest.stages else "",
    }
    if details is not None:
        drawn |= _drawn(details)
    return render("report.html", **values, **drawn, devices=devices)


def visible(token: str) -> str:
    """A token's text, where line breaks and all else that a page does not show are written out."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in token)


def spread(snr_db: Sequence[float]) -> str:
    """Least and median of positions in words; empty without any."""
    if not snr_db:
        return ""
    return f"{decibels_text(min(snr_db))}, {decibels_text(float(np.median(snr_db)))}"


def _drawn(details: Details) -> dict[str, Any]:
    """Plots of the details; a plot of positions for the codes, and one for each artifact."""
    shown: dict[str, list[Side]] = {}
    for each in details.sides:
        if each.snr_db:
            shown.setdefault(each.artifact, []).append(each)
    return {
        "positions": [
            plots.positions(sides, details.prompt_length, f"SNR by position of {name or 'codes'}")
            for name, sides in shown.items()
        ],
        "streams": plots.streams(details.stream) if details.stream else "",
        "losses": plots.losses(details.layers) if details.layers else "",
    }


def _values(manifest: Manifest, name: str, details: Details | None) -> dict[str, Any]:
    expected = phone_forecast(manifest)
    warnings = [why for each in manifest.calibration for why in each.warnings]
    return {
        "title": name,
        "notices": list(dict.fromkeys((*manifest.not_executed, *manifest.notices, *warnings))),
        "manifest": manifest,
        "artifacts": artifact_facts(manifest),
        "quality": manifest.quality,
        "details": details,
        "visible": visible,
        "spread": spread,
        "percent": lambda share: f"{number_text(100 * share)} %",
        "forecast": expected,
        "speeds": any(each.decode or each.prefill for each in expected.phones),
        "covered": f"{COVERED:.0%}",
        "gigabytes": gigabytes,
        "speed": speed_text,
        "cost": cost_text,
        "number": number_text,
        "decibels": decibels_text,
    }
