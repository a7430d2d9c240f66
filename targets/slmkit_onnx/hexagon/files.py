"""Sizes of the ``hexagon`` artifact's files with weights, computed from shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model, WeightFile
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.hexagon.lowering.emit import DATA
from slmkit_onnx.hexagon.plan import Plan, plan_of
from slmkit_onnx.hexagon.qnn.compile import binary_file
from slmkit_onnx.ort.files import FLOAT, matrix_bytes

__all__ = ["weight_files"]


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], values: Mapping[str, Any]
) -> list[WeightFile]:
    """The data file that all graphs share, and a binary for each chip and part."""
    plan, layers = plan_of(model, schemes, values, {}), model.spec.layers
    table = plan.table_bytes if plan.table_in_graph else 0
    binaries = [
        WeightFile(
            f"{soc}/{binary_file(part.name)}",
            part.bytes_of(plan.sizes) + table,
            f"{part.about(layers)}, for {soc}",
        )
        for soc in plan.options.soc
        for part in plan.parts
    ]
    return [WeightFile(DATA, table + _data_bytes(model, schemes, plan), "all graphs"), *binaries]


def _data_bytes(model: Model, schemes: Mapping[str, Scheme], plan: Plan) -> int:
    """Bytes of the weights, of float32 copies of vectors, and of the host's embedding table.

    The float32 copies are read by the float graphs; the table is stored as in ``ort``.
    """
    tables = sum(matrix_bytes(model.shapes[name], schemes[name]) for name in model.looked_up)
    return sum(plan.sizes) + FLOAT * model.vector_numbers + tables
