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
    planned: tuple[str, ...] = ()


PLATFORMS = {
    platform.name: platform
    for platform in (
        Platform(
            "android", "Android phones and tablets, arm64", ("ort", "hexagon"), 3 * GB,
            planned=("litert", "mlc"),
        ),
        Platform("ios", "iPhone and iPad, iOS 18 and later", (), 3 * GB, planned=("coreml", "mlc")),
    )
}  # fmt: skip


def find_platform(name: str) -> Platform:
    """A platform that can be built. Raises SlmkitError with what can."""
    ready = [platform.name for platform in PLATFORMS.values() if platform.artifacts]
    if name not in PLATFORMS:
        raise SlmkitError(f"there is no target {name!r}", f"targets: {', '.join(PLATFORMS)}")
    if name not in ready:
        raise SlmkitError(
            f"no artifact of the target {name} can be built yet "
            f"(planned: {', '.join(PLATFORMS[name].planned)})",
            f"targets that can be built: {', '.join(ready)}",
        )
    return PLATFORMS[name]


def known_artifacts() -> set[str]:
    """Every artifact that a recipe may hold options for, planned ones included."""
    return {name for each in PLATFORMS.values() for name in (*each.artifacts, *each.planned)}
