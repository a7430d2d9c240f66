"""The recipe's ``artifacts: {ort: ...}``, and the schemes that ONNX Runtime cannot take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model
from slmkit.backend.support import Option, Support, one_of, refuse_palettes
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.ort.lowering import adapters
from slmkit_onnx.ort.lowering.adapters import ALL
from slmkit_onnx.ort.lowering.attention import FUSED_WIDTH_MULTIPLE, supports_fused_attention

INT8 = "int8"  # of the option kv_cache
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
        "kv_cache": one_of("float32", INT8),
        "logits": one_of("last", "all"),
    },
    refusals=(refuse_palettes(PALETTES),),
)


def answers_last(options: Mapping[str, Any]) -> bool:
    """Whether a call computes the logits of its last token alone, unless it asks for more."""
    asked: str = options.get("logits", "last")
    return asked == "last"


def has_int8_cache(options: Mapping[str, Any]) -> bool:
    """Whether keys and values are kept as integers of 8 bits."""
    return options.get("kv_cache") == INT8


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
    if not found and has_int8_cache(options):
        found = _cache_problems(model)
    return found or adapters.problems(model, options.get("adapters"))


def _cache_problems(model: Model) -> list[str]:
    if not model.attention_layers:
        return ["the model has no KV cache: leave out the option kv_cache"]
    if not supports_fused_attention(model.spec):
        return [
            "an int8 KV cache needs ONNX Runtime's GroupQueryAttention, whose heads and ropes have "
            f"a multiple of {FUSED_WIDTH_MULTIPLE} channels: leave out the option kv_cache"
        ]
    return []
