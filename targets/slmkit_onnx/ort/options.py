"""The recipe's ``artifacts: {ort: ...}``, and the schemes that ONNX Runtime cannot take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model
from slmkit.backend.support import Support, one_of, refuse_palettes
from slmkit.recipe.scheme import Scheme

PALETTES = (
    "palettes have no kernels: use encoding group-wise or per-channel, and name palettes under "
    "artifacts.coreml.weights"
)
SUPPORT = Support(
    "ort",
    options={"accuracy_level": one_of(0, 1, 4)},
    refusals=(refuse_palettes(PALETTES),),
)


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """Everything that this backend cannot do for the model and recipe, one sentence each."""
    return SUPPORT.problems(model, schemes, options)
