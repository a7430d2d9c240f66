"""A page that puts bundles side by side, out of their manifests alone: nothing is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slmkit.backend.registry import find_target
from slmkit.bundle.manifest import Manifest
from slmkit.bundle.pages import render
from slmkit.bundle.report import plots
from slmkit.bundle.report.facts import ArtifactFacts, artifact_facts
from slmkit.errors import UsageError
from slmkit.parity.wording import decibels_text, number_text
from slmkit.planning.memory import gigabytes


@dataclass(frozen=True)
class _Side:
    """One bundle of the page."""

    name: str
    manifest: Manifest
    artifacts: tuple[ArtifactFacts, ...]

    @property
    def seconds(self) -> float | None:
        """The build's, from its start to the end of its last stage."""
        return max((each.start + each.seconds for each in self.manifest.stages), default=None)


def comparison_page(bundles: Mapping[str, Manifest]) -> str:
    """One file of HTML that loads nothing. ``bundles``: two or more, by the names that the page
    gives them. Raises UsageError for fewer."""
    if len(bundles) < 2:
        raise UsageError("a page of one bundle compares nothing", "name two or more bundles")
    sides = [_Side(name, each, artifact_facts(each)) for name, each in bundles.items()]
    limits = {side.manifest.target: find_target(side.manifest.target) for side in sides}
    return render(
        "comparison.html",
        title=f"{len(sides)} bundles side by side",
        sides=sides,
        sizes=plots.side_by_side({side.name: side.artifacts for side in sides}),
        memory=plots.memory(
            {
                f"{side.name}: {artifact.name}": artifact.memory
                for side in sides
                for artifact in side.manifest.artifacts
            },
            {f"limit of {name}": target.memory_limit for name, target in limits.items()},
        ),
        gigabytes=gigabytes,
        number=number_text,
        decibels=decibels_text,
    )
