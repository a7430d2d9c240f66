"""The recipe's ``artifacts: {ort: ...}``, and the schemes that ONNX Runtime cannot take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model
from slmkit.backend.support import Option, Support, one_of, refuse_palettes
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.ort.lowering import adapters
from slmkit_onnx.ort.lowering.adapters import ALL

PALETTES = (
    "palettes have no kernels: use encoding group-wise or per-channel, and name palettes under "
    "artifacts.coreml.weights"
)
ADAPTERS = Option(
    lambda value: value == ALL or _are_names(value),
    "all, or a list of names of linears, such as [q_proj, v_proj]",
)
SUPPORT = Support(
    "ort",
    options={
        "accuracy_level": one_of(0, 1, 4),
        "adapters": ADAPTERS,
        "kleidiai": one_of(True, False),
        "logits": one_of("last", "all"),
    },
    refusals=(refuse_palettes(PALETTES),),
)


def answers_last(options: Mapping[str, Any]) -> bool:
    """Whether a call computes the logits of its last token alone, unless it asks for more."""
    return options.get("logits", "last") == "last"


def session_entries(options: Mapping[str, Any]) -> dict[str, str]:
    """Entries of ONNX Runtime's session options, beside those that any model gets; its names are of
    mlas/inc/mlas.h and onnxruntime_session_options_config_keys.h."""
    return {} if options.get("kleidiai", True) else {"mlas.disable_kleidiai": "1"}


def _are_names(value: Any) -> bool:
    names = isinstance(value, list) and all(isinstance(each, str) and each for each in value)
    return names and len(value) > 0


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """Everything that this backend cannot do for the model and recipe, one sentence each."""
    found = SUPPORT.problems(model, schemes, options)
    return found or adapters.problems(model, options.get("adapters"))
