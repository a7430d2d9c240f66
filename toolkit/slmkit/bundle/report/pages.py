"""report.html and report.md of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from slmkit.backend.registry import find_target
from slmkit.bundle.manifest import Manifest
from slmkit.bundle.pages import render
from slmkit.bundle.report import plots
from slmkit.bundle.report.facts import DeviceLine, artifact_facts, cost_text, phone_forecast
from slmkit.parity.wording import decibels_text, number_text
from slmkit.planning.memory import gigabytes
from slmkit.planning.speed_fit import COVERED, speed_text


def markdown_report(manifest: Manifest, name: str, devices: Sequence[DeviceLine] = ()) -> str:
    """report.md of a bundle that is called ``name``; the manifest must list its files."""
    return render("report.md", **_values(manifest, name), devices=devices)


def html_report(manifest: Manifest, name: str, devices: Sequence[DeviceLine] = ()) -> str:
    """report.html: one file that loads nothing, for light and dark screens of any width."""
    values = _values(manifest, name)
    found, limit = values["artifacts"], find_target(manifest.target).memory_limit
    drawn = {
        "ladder": plots.ladder(found),
        "sizes": plots.sizes(found),
        "memory": plots.memory(
            {each.name: each.memory for each in manifest.artifacts}, {"the target's limit": limit}
        ),
        "stages": plots.stages(manifest.stages) if manifest.stages else "",
    }
    return render("report.html", **values, **drawn, devices=devices)


def _values(manifest: Manifest, name: str) -> dict[str, Any]:
    return {
        "title": name,
        "manifest": manifest,
        "artifacts": artifact_facts(manifest),
        "quality": manifest.quality,
        "forecast": phone_forecast(manifest),
        "covered": f"{COVERED:.0%}",
        "gigabytes": gigabytes,
        "speed": speed_text,
        "cost": cost_text,
        "number": number_text,
        "decibels": decibels_text,
    }
