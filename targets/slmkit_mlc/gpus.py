"""The GPUs that libraries are compiled for: ``gpus.json``, read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One row: what code is generated for, and for what dlight schedules."""

    name: str
    about: str
    platform: str
    layout: str
    target: Mapping[str, Any]
    schedule: Mapping[str, Mapping[str, Any]]  # by rule of dlight, where it is another target

    @property
    def code_target(self) -> Any:
        """TVM's target that the library is built for."""
        return _target(self.target)

    def schedule_target(self, rule: str) -> Any:
        """TVM's target whose limits a rule of dlight schedules for."""
        return _target(self.schedule.get(rule, self.target))

    @property
    def as_json(self) -> dict[str, Any]:
        """For a process of its own."""
        return asdict(self)


@cache
def known_gpus() -> dict[str, Gpu]:
    """All rows by name."""
    rows = json.loads((Path(__file__).parent / "gpus.json").read_text(encoding="utf-8"))
    return {name: _gpu(name, row) for name, row in rows.items() if name != "about"}


def gpu_from_json(values: Mapping[str, Any]) -> Gpu:
    """The inverse of ``Gpu.as_json``."""
    return Gpu(**values)


def gpus_of(platform: str) -> list[Gpu]:
    """Those of a platform, in the file's order."""
    return [gpu for gpu in known_gpus().values() if gpu.platform == platform]


def layout_of(platform: str) -> str:
    """How the weights of a platform's libraries lie: its GPUs share one set of parameters."""
    (layout,) = {gpu.layout for gpu in gpus_of(platform)}
    return layout


def _gpu(name: str, row: Mapping[str, Any]) -> Gpu:
    return Gpu(
        name, row["about"], row["platform"], row["layout"], row["target"], row.get("schedule", {})
    )


def _target(values: Mapping[str, Any]) -> Any:
    from tvm.target import Target

    return Target(dict(values))
