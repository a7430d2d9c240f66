"""Options under the recipe's ``artifacts: {mlc: ...}``, and models that MLC cannot represent."""

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
MAX_HEAD_WIDTH = 256  # the kernel ``merge_state`` has one thread for each number of a head
MIN_NAME_LENGTH = 8  # characters: TVM fails on shorter prefixes (0.27.0.post1)


def _is_gpu_list(value: Any) -> bool:
    """Whether a value is a list of at least one name of ``gpus.json``."""
    return isinstance(value, list) and bool(value) and set(value) <= set(known_gpus())


SUPPORT = Support(
    "mlc",
    options={
        "compiler": one_of("slmkit", COMPILER),
        "gpus": Option(_is_gpu_list, f"a list of {', '.join(known_gpus())}"),
    },
    refusals=(
        refuse_palettes("palettes have no kernels: name them under artifacts.coreml.weights"),
    ),
    widest_head=MAX_HEAD_WIDTH,
    windows=1,
)


def problems(model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]) -> list[str]:
    """Reasons why this backend cannot build the model with the recipe, one sentence each."""
    reasons = SUPPORT.problems(model, schemes, options)
    if has_unequal_states(model):
        reasons.append("mlc's recurrent state has the same sizes in every layer that has one")
    if options.get("compiler") == COMPILER:
        reasons += _mlc_llm_problems(model, schemes)
    return reasons


def _mlc_llm_problems(model: Model, schemes: Mapping[str, Scheme]) -> list[str]:
    """Reasons why mlc_llm's own compiler cannot build the model with these schemes."""
    reasons = []
    if model.states:
        reasons.append("compiler: mlc_llm: it has no model whose layers keep states")
    if find_spec(COMPILER) is None:
        reasons.append("compiler: mlc_llm: the Python package mlc_llm is not installed")
    if mlc_format(schemes, "N-major") is None:
        reasons.append(
            "compiler: mlc_llm: it takes weights of 4 bits, symmetric, in groups of 32, or "
            "float16; choose the recipe int4-compact or float16"
        )
    return reasons


def mlc_format(schemes: Mapping[str, Scheme], layout: str) -> str | None:
    """MLC's name for the weights' format (q0f16, q4f16_0, q4f16_1); None if it has none."""
    formats = {_weight_format(scheme) for scheme in schemes.values()}
    if formats == {"float16"}:
        return "q0f16"
    if formats == {"q4"}:
        return "q4f16_0" if layout == K_MAJOR else "q4f16_1"
    return None


def _weight_format(scheme: Scheme) -> str:
    """ "float16", "q4" (symmetric, 4 bits in groups of 32) or "other"."""
    if scheme.bits is None:
        return "float16"
    q4 = scheme.bits == 4 and scheme.group_size == 32 and scheme.symmetric
    return "q4" if q4 else "other"


def quantization_name(definition: Definition, recipe: str) -> str:
    """``quantization`` in the library's metadata: MLC's name of the format, or slm_RECIPE."""
    mlc_name = mlc_format(definition.schemes, definition.layout)
    if mlc_name and definition.dtype == "float16":
        return mlc_name
    return f"slm_{_c_identifier(recipe)}"


def library_name(model: str, quantization: str, gpu: Gpu) -> str:
    """``model_lib`` of MLC's configuration: starts with a letter and is long enough for TVM."""
    name = f"{_c_identifier(model)}-{quantization}-{gpu.name}"
    return name if name[0].isalpha() and len(name) >= MIN_NAME_LENGTH else f"slmkit-{name}"


def _c_identifier(text: str) -> str:
    """The text with everything but letters and digits replaced by underscores."""
    return re.sub(r"[^A-Za-z0-9]+", "_", text)


def chosen_gpus(job: Job) -> Sequence[Gpu]:
    """The GPUs of the job's target; only those in the option ``gpus``, if the recipe has it."""
    names = job.options.get("gpus")
    return [gpu for gpu in gpus_of(job.target) if names is None or gpu.name in names]


def weight_bytes(rows: int, width: int, scheme: Scheme) -> int:
    """Bytes of one matrix in memory: packed codes and a float16 scale for each group."""
    if scheme.bits is None:
        return rows * width * 2
    padded = padded_width(scheme, width)
    return rows * (padded * scheme.bits // 8 + 2 * (padded // (scheme.group_size or padded)))
