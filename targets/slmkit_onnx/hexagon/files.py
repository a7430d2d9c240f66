"""The files of the ``hexagon`` artifact that hold weights, by shapes alone."""

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
    """What the graphs share, and a binary for each chip and part."""
    plan, layers = plan_of(model, schemes, values, {}), model.spec.layers
    table = plan.table_bytes if plan.embedded else 0
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
    """Weights of the QDQ graphs, vectors once more in float32 for their twins, and the table that
    the host looks up in, as ``ort`` holds it."""
    tables = sum(matrix_bytes(model.shapes[name], schemes[name]) for name in model.looked_up)
    return sum(plan.sizes) + FLOAT * model.vector_numbers + tables
