"""The recipe's ``artifacts: {mlc: ...}``, and what MLC's libraries cannot hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from slmkit.backend.interface import Job, Model
from slmkit.backend.support import Option, Support, one_of, refuse_palettes
from slmkit.quant.codes import padded_width
from slmkit.recipe.scheme import Scheme
from slmkit_mlc.gpus import Gpu, gpus_of, known_gpus
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.params import K_MAJOR
from slmkit_mlc.sizes import has_unequal_states

COMPILER = "mlc_llm"
WIDEST_HEAD = 256  # threads that join two attentions, one for each number of a head
SHORTEST = 8  # characters of a prefix: TVM fails on shorter ones (0.27.0.post1)


def _gpus(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and set(value) <= set(known_gpus())


SUPPORT = Support(
    "mlc",
    options={
        "compiler": one_of("slmkit", COMPILER),
        "gpus": Option(_gpus, f"a list of {', '.join(known_gpus())}"),
    },
    refusals=(
        refuse_palettes("palettes have no kernels: name them under artifacts.coreml.weights"),
    ),
    widest_head=WIDEST_HEAD,
    windows=1,
)


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """Everything that this backend cannot do for the model and recipe, one sentence each."""
    found = SUPPORT.problems(model, schemes, options)
    if has_unequal_states(model):
        found.append("mlc's recurrent state has the same sizes in every layer that has one")
    if options.get("compiler") == COMPILER:
        found += _handed_over(model, schemes)
    return found


def _handed_over(model: Model, schemes: Mapping[str, Scheme]) -> list[str]:
    """Why mlc_llm's own compiler cannot take the weights."""
    found = []
    if model.states:
        found.append("compiler: mlc_llm: it has no model whose layers keep states")
    if find_spec(COMPILER) is None:
        found.append("compiler: mlc_llm: the Python package mlc_llm is not installed")
    if mlc_format(schemes, "N-major") is None:
        found.append(
            "compiler: mlc_llm: it takes weights of 4 bits, symmetric, in groups of 32, or "
            "float16; choose the recipe int4-compact or float16"
        )
    return found


def mlc_format(schemes: Mapping[str, Scheme], layout: str) -> str | None:
    """MLC's own name for the weights' format, if it has one."""
    kinds = {_kind(scheme) for scheme in schemes.values()}
    if kinds == {"float16"}:
        return "q0f16"
    if kinds == {"q4"}:
        return "q4f16_0" if layout == K_MAJOR else "q4f16_1"
    return None


def _kind(scheme: Scheme) -> str:
    if scheme.bits is None:
        return "float16"
    plain = scheme.bits == 4 and scheme.group_size == 32 and scheme.symmetric
    return "q4" if plain else "other"


def quantization_of(definition: Definition, recipe: str) -> str:
    """What a library says of its weights and activations: MLC's name, or ours with the recipe's."""
    known = mlc_format(definition.schemes, definition.layout)
    own = f"slm_{_word(recipe)}"
    return known if known and definition.dtype == "float16" else own


def library_name(model: str, quantization: str, gpu: Gpu) -> str:
    """``model_lib`` for MLC's configuration: what a C name may hold, and long enough."""
    name = f"{_word(model)}-{quantization}-{gpu.name}"
    return name if name[0].isalpha() and len(name) >= SHORTEST else f"slmkit-{name}"


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", text)


def chosen_gpus(job: Job) -> Sequence[Gpu]:
    """The platform's GPUs, or those of them that the recipe names."""
    named = job.options.get("gpus")
    return [gpu for gpu in gpus_of(job.target) if named is None or gpu.name in named]


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """One weight in memory: packed codes, a float16 scale for each group."""
    if scheme.bits is None:
        return rows * width * 2
    padded = padded_width(scheme, width)
    return rows * (padded * scheme.bits // 8 + 2 * (padded // (scheme.group_size or padded)))
