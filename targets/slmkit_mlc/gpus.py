"""The table of GPUs that libraries are compiled for, read from ``gpus.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One row of ``gpus.json``."""

    name: str
    about: str
    platform: str  # the slmkit target: android, ios
    layout: str  # of linears' weights: N-major or K-major
    target: Mapping[str, Any]  # TVM's target, as keyword arguments
    schedule: Mapping[str, Mapping[str, Any]]  # by dlight rule: another target to schedule for

    @property
    def is_opencl(self) -> bool:
        """Whether its own language is OpenCL, which this machine can execute and compare."""
        return bool(self.target["kind"] == "opencl")

    @property
    def code_target(self) -> Any:
        """The ``tvm.target.Target`` that code is generated for."""
        return _target(self.target)

    def schedule_target(self, rule: str) -> Any:
        """The ``tvm.target.Target`` whose limits a rule of dlight schedules for."""
        return _target(self.schedule.get(rule, self.target))

    @property
    def as_json(self) -> dict[str, Any]:
        """The row as JSON values, for a worker process."""
        return asdict(self)


@cache
def known_gpus() -> dict[str, Gpu]:
    """All GPUs by name."""
    rows = json.loads((Path(__file__).parent / "gpus.json").read_text(encoding="utf-8"))
    return {name: _gpu(name, row) for name, row in rows.items() if name != "about"}


def gpu_from_json(values: Mapping[str, Any]) -> Gpu:
    """A GPU from ``Gpu.as_json``."""
    return Gpu(**values)


def gpus_of(platform: str) -> list[Gpu]:
    """The GPUs of a platform, in the order of ``gpus.json``."""
    return [gpu for gpu in known_gpus().values() if gpu.platform == platform]


def layout_of(platform: str) -> str:
    """The weight layout of a platform's libraries; all its GPUs share one set of parameters."""
    (layout,) = {gpu.layout for gpu in gpus_of(platform)}
    return layout


def _gpu(name: str, row: Mapping[str, Any]) -> Gpu:
    """A GPU from a row of ``gpus.json``."""
    return Gpu(
        name=name,
        about=row["about"],
        platform=row["platform"],
        layout=row["layout"],
        target=row["target"],
        schedule=row.get("schedule", {}),
    )


def _target(values: Mapping[str, Any]) -> Any:
    """TVM's target from its JSON values."""
    from tvm.target import Target

    return Target(dict(values))
