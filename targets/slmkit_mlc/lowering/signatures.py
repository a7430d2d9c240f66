"""Inputs and outputs of a module's functions as text, compared with what MLC's engine expects."""

from __future__ import annotations

from typing import Any

from tvm import relax

from slmkit.errors import BackendError
from slmkit_mlc.contract import contract
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.sizes import state_kinds

STATES = "states"  # in the contract: the KV cache, the recurrent state, or both
Signature = dict[str, list[str]]  # "inputs" and "outputs", such as "[1, 1, 64] float16"


def check_signatures(mod: Any, definition: Definition, gpu: Gpu) -> dict[str, Signature]:
    """Signatures of the contract's functions in a module.

    Raises BackendError for functions that are missing or differ from the contract.
    """
    found, problems = signatures(mod), []
    expected = expected_signatures(definition, gpu)
    for name, signature in expected.items():
        if found.get(name) != signature:
            problems.append(f"{name} is {found.get(name, 'missing')}, not {signature}")
    if problems:
        raise BackendError(
            f"the library would not be what MLC expects: {'; '.join(problems)}",
            "please report this",
        )
    return {name: found[name] for name in expected}


def expected_signatures(definition: Definition, gpu: Gpu) -> dict[str, Signature]:
    """The contract's functions for a GPU, with the model's sizes."""
    spec = definition.spec
    sizes: dict[str, object] = {
        "dt": definition.dtype,
        "D": spec.width,
        "V": spec.vocabulary,
        "W": -(-spec.vocabulary // 32),
        "C": definition.limits.prefill,
    }
    kinds = state_kinds(definition.model)
    expected = {}
    for name, row in contract()["functions"].items():
        on_this_gpu = row["devices"] in ("every", gpu.target["kind"])
        if on_this_gpu and row.get("creates", kinds[0]) in kinds:
            expected[name] = {
                side: [_with_sizes(text, sizes) for text in _expand_states(row[side], len(kinds))]
                for side in ("inputs", "outputs")
            }
    return expected


def signatures(mod: Any) -> dict[str, Signature]:
    """Signatures of a module's functions that the contract names.

    They are Relax functions, or kernels, whose outputs are among their buffers.
    """
    found = {}
    for global_var, function in mod.functions_items():
        if global_var.name_hint not in contract()["functions"]:
            continue
        if isinstance(function, relax.Function):
            inputs = [_type_text(param.ty) for param in function.params]
            output = function.ret_ty
            fields = list(output.fields) if isinstance(output, relax.TupleType) else [output]
            outputs = [_type_text(field) for field in fields]
        else:
            inputs = [_tensor_text(param.shape, param.dtype) for param in function.params]
            outputs = []
        found[global_var.name_hint] = {"inputs": inputs, "outputs": outputs}
    return found


def _expand_states(texts: list[str], count: int) -> list[str]:
    """Replace STATES by one "object" for each kind of state that the model has."""
    expanded = []
    for text in texts:
        expanded += ["object"] * count if text == STATES else [text]
    return expanded


def _type_text(kind: Any) -> str:
    """A Relax type as the contract writes it."""
    if isinstance(kind, relax.TensorType):
        return _tensor_text(kind.shape, kind.dtype)
    if isinstance(kind, relax.ShapeType):
        return "shape"
    return "params" if isinstance(kind, relax.TupleType) else "object"


def _tensor_text(shape: Any, dtype: Any) -> str:
    """``[1, seq_len, 64] float16``: lengths are numbers, or names of symbolic lengths."""
    lengths = (str(getattr(length, "value", getattr(length, "name", length))) for length in shape)
    return f"[{', '.join(lengths)}] {dtype}"


def _with_sizes(text: str, sizes: dict[str, object]) -> str:
    """``[1, V] dt`` with the model's sizes: ``[1, 320] float16``."""
    inside, _, dtype = text.partition("] ")
    if not dtype:
        return text
    lengths = [str(sizes.get(name, name)) for name in inside.removeprefix("[").split(", ")]
    return f"[{', '.join(lengths)}] {sizes.get(dtype, dtype)}"
