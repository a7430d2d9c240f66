"""Buffers that a scheduled kernel keeps in the GPU's memory become outputs that Relax allocates.

Adreno's matmul schedule lays the activations out anew before it multiplies. As a parameter, that
buffer is part of the static memory plan; as an allocation inside, every call would ask the driver.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import SBlock, SBlockRealize

Module = Any


@tvm.transform.module_pass(opt_level=0)
class WorkspacesPlanned:
    """Turns global allocations inside of kernels into outputs of their calls."""

    def transform_module(self, mod: Module, _: Any) -> Module:
        """The module with wider kernels beside the old ones, which nothing calls any more."""
        found = {own: each for own, each in mod.functions_items() if allocated(each)}
        if not found:
            return mod
        calls = _Calls(mod, {own: _widened(each) for own, each in found.items()})
        for own, function in mod.functions_items():
            if isinstance(function, relax.Function):
                calls.builder_.update_func(own, calls.visit_expr(function))
        return calls.builder_.get()


def allocated(function: Any) -> list[Any]:
    """Buffers in the GPU's memory that a kernel allocates itself."""
    if not isinstance(function, tirx.PrimFunc) or not isinstance(function.body, SBlockRealize):
        return []
    return [each for each in function.body.block.alloc_buffers if each.scope() == "global"]


def _widened(function: Any) -> Any:
    """The kernel with its buffers as last parameters."""
    realize = function.body
    block = realize.block
    rest = [each for each in block.alloc_buffers if each.scope() != "global"]
    inner = SBlock(
        block.iter_vars,
        block.reads,
        block.writes,
        block.name_hint,
        block.body,
        block.init,
        rest,
        block.match_buffers,
        block.annotations,
    )
    body = SBlockRealize(realize.iter_values, realize.predicate, inner)
    return tirx.PrimFunc(
        [*function.params, *allocated(function)], body, function.ret_type, function.attrs
    )


@relax.expr_functor.mutator
class _Calls(relax.PyExprMutator):  # type: ignore[misc]
    """Gives the kernels' calls their further outputs, and takes the first."""

    def __init__(self, mod: Module, wide: dict[Any, Any]) -> None:
        super().__init__(mod)
        self.wide = wide
        self.owners = {
            own: self.builder_.add_func(each, own.name_hint) for own, each in wide.items()
        }

    def visit_call_(self, call: Any) -> Any:
        """A call of a kernel that keeps buffers."""
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.call_tir":
            return call
        own, given = call.args
        if own not in self.wide:
            return call
        (output,) = call.ty_args
        outputs = list(output.fields) if isinstance(output, relax.TupleType) else [output]
        known = [*(each.ty for each in given), *outputs]
        more = [relax.TensorType(each.shape, each.dtype) for each in self._workspaces(own, known)]
        wider = self.builder_.emit(relax.call_tir(self.owners[own], given, [*outputs, *more]))
        found = [relax.TupleGetItem(wider, at) for at in range(len(outputs))]
        return relax.Tuple(found) if isinstance(output, relax.TupleType) else found[0]

    def _workspaces(self, own: Any, known: list[Any]) -> list[Any]:
        """The kernel's buffers, their lengths as its caller knows them."""
        kernel = self.wide[own]
        outside = {
            param: tirx.decl_buffer(
                kind.shape.values, kind.dtype, data_alignment=param.ty.data_alignment
            )
            for param, kind in zip(kernel.params, known, strict=False)
        }
        found: list[Any] = kernel.specialize(outside).params[len(known) :]
        return found
