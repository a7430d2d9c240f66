"""Sizes of the ``coreml`` artifact's files with weights, computed from shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.backend.interface import Model, WeightFile
from slmkit.recipe.scheme import Scheme
from slmkit_coreml.embedding import table_file_sizes
from slmkit_coreml.options import Form, plan_chunks, read, table_bytes, unit_sizes
from slmkit_coreml.sizes import matrix_bytes


def package_name(number: int, chunks: int) -> str:
    """File name of a chunk's package; ``number`` counts from 1."""
    return "model.mlpackage" if chunks == 1 else f"model_{number}.mlpackage"


def weight_files(
    model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any], context_length: int
) -> list[WeightFile]:
    """A package for each chunk, and the files of the embedding table for the app."""
    form, layers = read(options), model.spec.layers
    sizes = unit_sizes(model, schemes, form)
    chunks = plan_chunks(model, schemes, form, context_length)
    tables = table_bytes(model, context_length) if form.self_contained else 0
    twice = shared_bytes(model, schemes, form) if len(chunks) == 1 else 0
    packages = []
    for number, chunk in enumerate(chunks, 1):
        size = chunk.bytes_of(sizes) - twice + (tables if chunk.layers(layers) else 0)
        packages.append(WeightFile(package_name(number, len(chunks)), size, chunk.about(layers)))
    if form.self_contained:
        return packages
    looked_up = [
        WeightFile(name, size, "the embedding")
        for table in model.looked_up
        for name, size in table_file_sizes(model.shapes[table], schemes[table]).items()
    ]
    return [*packages, *looked_up]


def shared_bytes(model: Model, schemes: Mapping[str, Scheme], form: Form) -> int:
    """Bytes that a single package stores once, but that two units are counted with: a tied
    embedding table, which is also the head's weight."""
    if not form.self_contained:
        return 0
    total = 0
    for name in model.looked_up & model.multiplied:
        rows, width = model.shapes[name]
        total += matrix_bytes(rows, width, schemes[name])
    return total
