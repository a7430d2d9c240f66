"""Fixtures of the slow tests: one arm64 box for all that run in it."""

from __future__ import annotations

import pytest

from arm64_machine import box_or_skip
from slmkit.devices.places.box import Box
from slmkit.devices.places.listing import box_requirements


@pytest.fixture(scope="session")
def box(tmp_path_factory) -> Box:
    """The runtimes' own arm64 wheels under qemu. Tests that share it are of one xdist group."""
    return box_or_skip(tmp_path_factory.mktemp("arm64") / "box", list(box_requirements()))
