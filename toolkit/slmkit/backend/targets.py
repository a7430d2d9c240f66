"""What a user may name as a target: its artifacts and its limits. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from slmkit.errors import SlmkitError

GB = 10**9


@dataclass(frozen=True)
class Platform:
    """A target: the artifacts that are built for it, and the memory an app may use there."""

    name: str
    about: str
    artifacts: tuple[str, ...]
    memory_limit: int  # bytes: weights, KV cache and working memory together


PLATFORMS = {
    platform.name: platform
    for platform in (
        Platform(
            "android",
            "Android phones and tablets, arm64",
            ("ort", "hexagon", "litert", "mlc"),
            3 * GB,
        ),
        Platform("ios", "iPhone and iPad, iOS 18 and later", ("coreml", "mlc"), 3 * GB),
    )
}


def find_platform(name: str) -> Platform:
    """A platform by name. Raises SlmkitError with those that exist."""
    if name not in PLATFORMS:
        raise SlmkitError(f"there is no target {name!r}", f"targets: {', '.join(PLATFORMS)}")
    return PLATFORMS[name]


def known_artifacts() -> set[str]:
    """Every artifact that a recipe may hold options for."""
    return {name for each in PLATFORMS.values() for name in each.artifacts}
