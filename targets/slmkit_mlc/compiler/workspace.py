"""Pass that turns workspaces allocated inside of kernels into outputs that Relax allocates.

Adreno's matmul schedule copies the activations into another layout before it multiplies. As an
output of the call, that buffer is part of the static memory plan; allocated inside of the kernel,
it would be requested from the driver at every call.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax, tirx
from tvm.s_tir import SBlock, SBlockRealize

Module = Any


@tvm.transform.module_pass(opt_level=0)
class PlanWorkspaces:
    """Turn allocations of GPU memory inside of kernels into outputs of their calls."""

    def transform_module(self, mod: Module, _: Any) -> Module:
        """Add the changed kernels and call them; the original ones stay, without callers."""
        kernels = {
            global_var: _with_workspace_params(function)
            for global_var, function in mod.functions_items()
            if workspaces(function)
        }
        if not kernels:
            return mod
        rewriter = _CallRewriter(mod, kernels)
        for global_var, function in mod.functions_items():
            if isinstance(function, relax.Function):
                rewriter.builder_.update_func(global_var, rewriter.visit_expr(function))
        return rewriter.builder_.get()


def workspaces(function: Any) -> list[Any]:
    """Buffers in the GPU's memory that a kernel allocates itself."""
    if not isinstance(function, tirx.PrimFunc) or not isinstance(function.body, SBlockRealize):
        return []
    buffers = function.body.block.alloc_buffers
    return [buffer for buffer in buffers if buffer.scope() == "global"]


def _with_workspace_params(function: Any) -> Any:
    """The kernel with its workspaces as last parameters instead of allocations."""
    realize = function.body
    block = realize.block
    rest = [buffer for buffer in block.alloc_buffers if buffer.scope() != "global"]
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
        [*function.params, *workspaces(function)], body, function.ret_type, function.attrs
    )


@relax.expr_functor.mutator
class _CallRewriter(relax.PyExprMutator):  # type: ignore[misc]
    """Replace calls of kernels by calls of the changed kernels, with workspaces as outputs."""

    def __init__(self, mod: Module, kernels: dict[Any, Any]) -> None:
        """``kernels``: changed kernels by the global variable of the original one."""
        super().__init__(mod)
        self.kernels = kernels
        self.global_vars = {
            original: self.builder_.add_func(kernel, original.name_hint)
            for original, kernel in kernels.items()
        }

    def visit_call_(self, call: Any) -> Any:
        """Rewrite a call_tir of a changed kernel; its value stays the original outputs."""
        call = self.visit_expr_post_order(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.call_tir":
            return call
        original, inputs = call.args
        if original not in self.kernels:
            return call
        (output,) = call.ty_args
        outputs = list(output.fields) if isinstance(output, relax.TupleType) else [output]
        argument_types = [*(value.ty for value in inputs), *outputs]
        workspace_types = [
            relax.TensorType(buffer.shape, buffer.dtype)
            for buffer in self._workspaces(original, argument_types)
        ]
        results = self.builder_.emit(
            relax.call_tir(self.global_vars[original], inputs, [*outputs, *workspace_types])
        )
        values = [relax.TupleGetItem(results, index) for index in range(len(outputs))]
        return relax.Tuple(values) if isinstance(output, relax.TupleType) else values[0]

    def _workspaces(self, original: Any, argument_types: list[Any]) -> list[Any]:
        """A kernel's workspaces with their lengths in terms of its caller's types."""
        kernel = self.kernels[original]
        arguments = {
            param: tirx.decl_buffer(
                kind.shape.values, kind.dtype, data_alignment=param.ty.data_alignment
            )
            for param, kind in zip(kernel.params, argument_types, strict=False)
        }
        specialized: list[Any] = kernel.specialize(arguments).params[len(argument_types) :]
        return specialized
