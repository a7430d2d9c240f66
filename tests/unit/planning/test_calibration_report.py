"""Reports of calibration: what was lost, which text was too short, which experts were idle."""

from __future__ import annotations

from typing import Any

from slmkit.planning.calibration_report import calibration_report
from slmkit.quant.linear_group import Fit, fits_to_json

LAYER = "model.layers.0.mlp"


class WithFits:
    """A codes file's metadata."""

    def __init__(self, *fits):
        self.file = self
        self.metadata = {"fits": fits_to_json(fits)}


def report(*fits) -> Any:
    codes: Any = WithFits(*fits)
    return calibration_report("all", codes, 1000)


def test_figures_are_those_of_the_matrices():
    found = report(
        Fit(f"{LAYER}.up_proj", 50.0, "float", 0.01, 0.03),
        Fit(f"{LAYER}.down_proj", 25.0, "float", 0.03, 0.05),
    )
    assert (found.matrices, found.tokens_per_input) == (2, 25.0)
    assert (found.loss, found.rounded_loss) == (0.02, 0.04)
    assert (found.own_target, found.rounded, found.warnings) == (0, 0, ())
    assert str(found) == (
        "all codes: 2 matrices on 1000 tokens of calibration text lose 2.00% of their outputs "
        "(median); rounded to nearest 4.00%"
    )


def test_short_text_is_named_with_its_widest_linear():
    found = report(
        Fit(f"{LAYER}.up_proj", 30.0, "float", 0.01, 0.03),
        Fit(f"{LAYER}.down_proj", 3.0, "own", 0.03, 0.05),
    )
    assert found.own_target == 1
    (warning,) = found.warnings
    assert "3.0 tokens per input of model.layers.0.mlp.down_proj, where 10 are wanted" in warning


def test_idle_experts_are_counted_and_not_taken_for_short_text():
    idle = Fit(f"{LAYER}.experts.3.up_proj", 0.2, "nearest", 0.05, 0.05)
    found = report(Fit(f"{LAYER}.gate_proj", 40.0, "float", 0.01, 0.03), idle)
    assert found.rounded == 1
    (warning,) = found.warnings
    assert warning.startswith("1 matrices of experts") and idle.name in warning


def test_codes_without_text_have_no_report():
    assert report() is None
