"""Targets: what ``--target`` names, and the memory that an app may use there."""

from __future__ import annotations

from dataclasses import dataclass

GB = 10**9


@dataclass(frozen=True)
class Target:
    """A kind of device; its artifacts are those whose backends declare it."""

    name: str
    about: str
    memory_limit: int  # bytes: weights, KV cache and working memory together


ANDROID = Target("android", "Android phones and tablets, arm64", 3 * GB)
IOS = Target("ios", "iPhone and iPad, iOS 18 and later", 3 * GB)
