"""The report of calibration: what codes lose on its text, and where the text was too short."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from slmkit.quant.codes import CodesFile
from slmkit.quant.linear_group import Fit, fits_of

WANTED = {"float": 20, "own": 10}  # tokens per input; measured: with fewer, more text still pays


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class CalibrationReport:
    """The matrices of one encoding whose codes were chosen on text."""

    encoding: str
    tokens: int  # of the text
    matrices: int
    tokens_per_input: float  # of the widest linear that every token passes
    loss: float  # of the outputs' energy, the median over matrices
    rounded_loss: float  # the same of codes that are rounded to nearest
    own_target: int  # matrices whose text is too short for the float target
    rounded: int  # matrices whose text is too short for any: rounded to nearest
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.encoding} codes: {self.matrices} matrices on {self.tokens} tokens of "
            f"calibration text lose {self.loss:.2%} of their outputs (median); rounded to nearest "
            f"{self.rounded_loss:.2%}"
        )


def calibration_report(encoding: str, codes: CodesFile, tokens: int) -> CalibrationReport | None:
    """The report of a codes file; None if none of it was chosen on text."""
    fits = fits_of(codes)
    if not fits:
        return None
    least = min((fit.tokens_per_input for fit in fits if not _is_expert(fit)), default=0.0)
    return CalibrationReport(
        encoding,
        tokens,
        len(fits),
        round(least, 2),
        float(f"{np.median([fit.loss for fit in fits]):.4g}"),
        float(f"{np.median([fit.rounded_loss for fit in fits]):.4g}"),
        sum(fit.target == "own" for fit in fits),
        sum(fit.target == "nearest" for fit in fits),
        tuple(_warnings(fits)),
    )


def _warnings(fits: Sequence[Fit]) -> list[str]:
    found = []
    usual = [fit for fit in fits if not _is_expert(fit)]
    if usual:
        widest = min(usual, key=lambda fit: fit.tokens_per_input)
        wanted = WANTED.get(widest.target, WANTED["own"])
        if widest.tokens_per_input < wanted:
            found.append(
                f"calibration text is short: {widest.tokens_per_input:.1f} tokens per input of "
                f"{widest.name}, where {wanted} are wanted; --calibration takes more"
            )
    few = [fit for fit in fits if fit.target == "nearest" and _is_expert(fit)]
    if few:
        found.append(
            f"{len(few)} matrices of experts, which calibration text hardly chose, are rounded "
            f"to nearest, among them {few[0].name}"
        )
    return found


def _is_expert(fit: Fit) -> bool:
    return any(part.isdigit() for part in fit.name.partition(".layers.")[2].split(".")[1:])
