"""Sizes of the ``hexagon`` artifact's files with weights, computed from shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model, WeightFile
from slmkit.recipe.scheme import Scheme
from slmkit_onnx.hexagon.lowering.emit import DATA, EMBED_DATA
from slmkit_onnx.hexagon.plan import plan_of
from slmkit_onnx.hexagon.qnn.compile import binary_file
from slmkit_onnx.ort.files import FLOAT, matrix_bytes

__all__ = ["weight_files"]


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], values: Mapping[str, Any]
) -> list[WeightFile]:
    """The data files of all graphs and of the host's embedding, and a binary for each chip and
    part."""
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
    copies = FLOAT * model.vector_numbers  # float32 copies of vectors, for the float graphs
    tables = sum(matrix_bytes(model.shapes[name], schemes[name]) for name in model.looked_up)
    return [
        WeightFile(DATA, table + sum(plan.sizes) + copies, "all graphs"),
        WeightFile(EMBED_DATA, tables, "the host's embedding, stored as in ort"),
        *binaries,
    ]
