"""What a backend declares of its processes' memory."""

from __future__ import annotations

from slmkit.backend.declaration import UNKNOWN, Forecast
from slmkit.backend.registry import declarations


def test_a_forecast_grows_with_the_model_up_to_the_most_that_a_part_takes():
    assert Forecast(10, 2.5).of(100) == 260
    assert Forecast(10, 2.5, most=200).of(100) == 200


def test_every_backend_of_slmkit_was_measured():
    for declared in declarations().values():
        assert UNKNOWN not in (declared.emitting, declared.running), declared.artifact
