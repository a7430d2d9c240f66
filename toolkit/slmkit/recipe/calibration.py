"""How codes are chosen on calibration text, for schemes with ``method: gptq``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from slmkit.recipe.scheme import STRICT


class Calibration(BaseModel):
    """The numbers of GPTQ; every one is explained in recipes/README.md."""

    model_config = STRICT

    tokens: int = Field(65536, ge=256)  # of calibration text, at most
    target: Literal["float", "own"] = "float"  # the output that codes should give
    damping: float = Field(0.1, gt=0, le=1)  # of the Hessian, as a share of its mean diagonal
    ridge: float = Field(1.0, gt=0, le=100)  # the same, where the float target is solved for
    sweeps: int = Field(2, ge=0, le=16)  # of coordinate descent, each with better scales after it
    balance: bool = False  # factors of channels with which 4-bit codes lose least
