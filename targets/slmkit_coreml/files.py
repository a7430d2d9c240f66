"""The files of the ``coreml`` artifact that hold weights, by shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model, WeightFile
from slmkit.recipe.scheme import Scheme
from slmkit_coreml.embedding import table_files
from slmkit_coreml.options import Form, plan_chunks, read, table_bytes, unit_sizes
from slmkit_coreml.sizes import matrix_bytes


def package_name(number: int, chunks: int) -> str:
    """The file of a chunk, counted from 1."""
    return "model.mlpackage" if chunks == 1 else f"model_{number}.mlpackage"


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """A package for each chunk, and the table that the app looks up in."""
    form, layers = read(options), model.spec.layers
    sizes = unit_sizes(model, schemes, form)
    chunks = plan_chunks(model, schemes, form, context_length)
    beside = table_bytes(model, context_length) if form.self_contained else 0
    if len(chunks) == 1:
        beside -= shared_bytes(model, schemes, form)
    packages = [
        WeightFile(
            package_name(number, len(chunks)), chunk.bytes_of(sizes) + beside, chunk.about(layers)
        )
        for number, chunk in enumerate(chunks, 1)
    ]
    if form.self_contained:
        return packages
    tables = [
        WeightFile(name, size, "the embedding")
        for table in model.looked_up
        for name, size in table_files(model.shapes[table], schemes[table]).items()
    ]
    return [*packages, *tables]


def shared_bytes(model: Model, schemes: Mapping[str, Scheme], form: Form) -> int:
    """What one package holds once, although two units are counted with it: in the GPU's layout, the
    table that is looked up in and is the head too."""
    if not form.self_contained or form.layout.name != "gpu":
        return 0
    total = 0
    for name in model.looked_up & model.multiplied:
        rows, width = model.shapes[name]
        total += matrix_bytes(rows, width, schemes[name])
    return total
