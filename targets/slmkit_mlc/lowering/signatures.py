"""Inputs and outputs of a module's functions, in words, and whether they are what MLC expects."""

from __future__ import annotations

from typing import Any

from tvm import relax

from slmkit.errors import BackendError
from slmkit_mlc.contract import contract
from slmkit_mlc.gpus import Gpu
from slmkit_mlc.lowering.definition import Definition
from slmkit_mlc.sizes import kept_by

KEPT = "kept"  # in the contract: a KV cache, recurrent states, or both
Signature = dict[str, list[str]]


def checked(mod: Any, definition: Definition, gpu: Gpu) -> dict[str, Signature]:
    """Every function of the contract. Raises BackendError for one that is missing or differs."""
    found, wrong = signatures(mod), []
    for name, expected in expected_signatures(definition, gpu).items():
        if found.get(name) != expected:
            wrong.append(f"{name} is {found.get(name, 'missing')}, not {expected}")
    if wrong:
        raise BackendError(
            f"the library would not be what MLC expects: {'; '.join(wrong)}", "please report this"
        )
    return {name: found[name] for name in expected_signatures(definition, gpu)}


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
    kept = kept_by(definition.model)
    return {
        name: {
            side: [_sized(each, sizes) for each in _kept(row[side], len(kept))]
            for side in ("inputs", "outputs")
        }
        for name, row in contract()["functions"].items()
        if row["devices"] in ("every", gpu.target["kind"]) and row.get("makes", kept[0]) in kept
    }


def signatures(mod: Any) -> dict[str, Signature]:
    """All functions of a module by name; kernels that only take buffers, too."""
    found = {}
    for own, function in mod.functions_items():
        if own.name_hint not in contract()["functions"]:
            continue
        if isinstance(function, relax.Function):
            inputs = [_typed(each.ty) for each in function.params]
            output = function.ret_ty
            parts = list(output.fields) if isinstance(output, relax.TupleType) else [output]
            outputs = [_typed(each) for each in parts]
        else:
            inputs, outputs = [_tensor(each.shape, each.dtype) for each in function.params], []
        found[own.name_hint] = {"inputs": inputs, "outputs": outputs}
    return found


def _kept(border: list[str], count: int) -> list[str]:
    """A function's inputs or outputs, with as many objects as a sequence keeps."""
    return [each for one in border for each in (["object"] * count if one == KEPT else [one])]


def _typed(kind: Any) -> str:
    if isinstance(kind, relax.TensorType):
        return _tensor(kind.shape, kind.dtype)
    if isinstance(kind, relax.ShapeType):
        return "shape"
    return "params" if isinstance(kind, relax.TupleType) else "object"


def _tensor(shape: Any, dtype: Any) -> str:
    lengths = (str(getattr(each, "value", getattr(each, "name", each))) for each in shape)
    return f"[{', '.join(lengths)}] {dtype}"


def _sized(text: str, sizes: dict[str, object]) -> str:
    """``[1, V] dt`` with the model's numbers."""
    inside, _, dtype = text.partition("] ")
    if not dtype:
        return text
    lengths = [str(sizes.get(each, each)) for each in inside.removeprefix("[").split(", ")]
    return f"[{', '.join(lengths)}] {sizes.get(dtype, dtype)}"
