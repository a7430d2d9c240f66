"""Parts of a model's graphs, for a proof that holds a few layers' weights at a time.

All graphs are cut between the same uses of weights, so that a part of each reads and writes the
caches of the same layers. What one part makes and a later one reads becomes an output of the first
and an input of the other, under a name of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from slmkit_litert.contract import LABEL
from slmkit_litert.lowering.flatbuffer import drop_unread_buffers, text_of
from slmkit_litert.lowering.weight_binding import OPERATORS

BETWEEN = "between_"  # precedes the number of a tensor that goes from part to part
Use = tuple[str, int]  # a weight's tensor name, and how many operators of the graph read it before


@dataclass(frozen=True)
class PartsPlan:
    """The parts of a model's graphs; ``sizes``: bytes of the weights that each multiplies with."""

    part_of: Mapping[Use, int]
    sizes: tuple[int, ...]


def plan_parts(model: Any, key: str, sizes: Mapping[str, int], limit: int) -> PartsPlan:
    """Plan parts by the signature ``key``, which uses all weights.

    ``sizes``: bytes by tensor name. A part has at most ``limit`` bytes, or a single weight. A
    table whose rows are looked up counts nothing: a mapped file's other rows are never read.
    """
    part_of: dict[Use, int] = {}
    held = [0]
    for operator, uses in _uses(model, _graph_of(model, key)):
        size = 0 if _looks_up(model, operator) else sum(sizes[label] for label, _ in uses)
        if size and held[-1] and held[-1] + size > limit:
            held.append(0)
        held[-1] += size
        part_of |= dict.fromkeys(uses, len(held) - 1)
    return PartsPlan(part_of, tuple(held))


def keep_part(model: Any, plan: PartsPlan, number: int) -> None:
    """Keep the operators of one part in every graph, the signatures that have any, and the buffers
    that are still read."""
    kept = []
    for signature in model.signatureDefs:
        graph = model.subgraphs[signature.subgraphIndex]
        if _keep_operators(model, graph, signature, plan.part_of, number):
            kept.append((signature, graph))
    model.signatureDefs = [signature for signature, _ in kept]
    model.subgraphs = [graph for _, graph in kept]
    for index, (signature, _) in enumerate(kept):
        signature.subgraphIndex = index
    drop_unread_buffers(model)


def _keep_operators(
    model: Any, graph: Any, signature: Any, parts: Mapping[Use, int], number: int
) -> bool:
    """Keep one part's operators of a graph, and what it reads and makes; whether there are any."""
    part_of = _parts_of(model, graph, signature, parts)
    made: dict[int, int] = {}  # by tensor, the part that makes it
    readers: dict[int, int] = {}  # the last part that reads it
    for operator, part in zip(graph.operators, part_of, strict=True):
        made |= dict.fromkeys(map(int, operator.outputs), part)
        for each in _inputs(operator):
            readers[each] = max(part, readers.get(each, 0))
    chosen = zip(graph.operators, part_of, strict=True)
    graph.operators = [operator for operator, part in chosen if part == number]
    read = {each for operator in graph.operators for each in _inputs(operator)}
    own = {each for each, part in made.items() if part == number}
    entering = sorted(each for each in read if made.get(each, number) < number)
    leaving = sorted(each for each in own if readers.get(each, number) > number)
    inputs = [each for each in signature.inputs if each.tensorIndex in read]
    outputs = [each for each in signature.outputs if each.tensorIndex in own]
    signature.inputs = [*inputs, *map(_between, entering)]
    signature.outputs = [*outputs, *map(_between, leaving)]
    graph.inputs = np.array([each.tensorIndex for each in signature.inputs], np.int32)
    graph.outputs = np.array([each.tensorIndex for each in signature.outputs], np.int32)
    scales = {_scales_of(graph.tensors[each]) for each in read}
    for index, tensor in enumerate(graph.tensors):
        if index not in read and index not in scales:
            tensor.buffer, tensor.quantization = 0, None
    return bool(graph.operators)


def _parts_of(model: Any, graph: Any, signature: Any, parts: Mapping[Use, int]) -> list[int]:
    """The part of each operator: that of its weight, or of the last operator that it depends on.

    A cache, and a state, is read in the part that makes its next value: no other part has it.
    """
    read = [_inputs(operator) for operator in graph.operators]
    made = [[int(each) for each in operator.outputs] for operator in graph.operators]
    inputs = {text_of(each.name): each.tensorIndex for each in signature.inputs}
    caches = [
        (inputs[text_of(each.name)], each.tensorIndex)
        for each in signature.outputs
        if text_of(each.name) in inputs
    ]
    touching = [
        [at for at in range(len(read)) if old in read[at] or new in made[at]] for old, new in caches
    ]
    found = [max([0, *(parts[use] for use in own)]) for _, own in _uses(model, graph)]
    before: list[int] = []
    while found != before:
        before, part_of = list(found), dict[int, int]()
        for at, tensors in enumerate(read):
            found[at] = max([found[at], *(part_of.get(each, 0) for each in tensors)])
            part_of |= dict.fromkeys(made[at], found[at])
        for operators in touching:
            last = max(found[at] for at in operators)
            for at in operators:
                found[at] = last
    return found


def _uses(model: Any, graph: Any) -> Iterator[tuple[Any, list[Use]]]:
    """The operators of a graph, in their order, and which use of which weights each is."""
    before: Counter[str] = Counter()
    for operator in graph.operators:
        labels = [text_of(graph.tensors[each].name) for each in _inputs(operator)]
        names = [label.removeprefix(LABEL) for label in labels if label.startswith(LABEL)]
        yield operator, [(name, before[name]) for name in names]
        before.update(names)


def _inputs(operator: Any) -> list[int]:
    """The tensors that an operator reads; -1 stands for one that is left out."""
    return [int(each) for each in operator.inputs if each >= 0]


def _scales_of(tensor: Any) -> int | None:
    """The tensor of a weight's scales, where its groups have some."""
    details = tensor.quantization.details if tensor.quantization is not None else None
    return None if details is None else int(details.scales)


def _looks_up(model: Any, operator: Any) -> bool:
    """Whether an operator reads some rows of its weight alone."""
    kind = OPERATORS[model.operatorCodes[operator.opcodeIndex].builtinCode]
    return kind in ("EMBEDDING_LOOKUP", "GATHER")


def _between(index: int) -> Any:
    """The entry of a signature for a tensor that goes from part to part."""
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = f"{BETWEEN}{index}".encode(), index
    return entry


def _graph_of(model: Any, key: str) -> Any:
    """The graph of a signature."""
    (found,) = (each for each in model.signatureDefs if text_of(each.signatureKey) == key)
    return model.subgraphs[found.subgraphIndex]
