"""Places for LoRA adapters in a graph: optional inputs A and B at linears, empty by default.

A pair adds x @ A @ B to a kernel's output: A is float32 [K, rank], B float32 [rank, N]. Both are
inputs with an initializer of rank 0, which ONNX Runtime takes where no active adapter has a
parameter of the name. Weights that are computed by one kernel call share a pair, whose B is
block-diagonal: one pair of products more for each kernel call, whatever it joins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slmkit.backend.interface import LowRank, Model
from slmkit.ops import Floats
from slmkit_onnx.graph import Graph

ALL = "all"


@dataclass(frozen=True)
class Place:
    """One pair of inputs, and the weights that it changes."""

    weights: tuple[str, ...]
    outputs: tuple[int, ...]  # N of each
    inputs: int  # K
    down: str  # name of A
    up: str  # name of B

    def parameters(self, low_ranks: Mapping[str, LowRank]) -> dict[str, Floats]:
        """A and B of the adapters that these weights have, by input name; none: no weight has."""
        ranks = [len(low_ranks[name].down) if name in low_ranks else 0 for name in self.weights]
        if not sum(ranks):
            return {}
        down = np.zeros((self.inputs, sum(ranks)), np.float32)
        up = np.zeros((sum(ranks), sum(self.outputs)), np.float32)
        row = column = 0
        for name, rank, width in zip(self.weights, ranks, self.outputs, strict=True):
            if name in low_ranks:
                down[:, row : row + rank] = low_ranks[name].down.T
                up[row : row + rank, column : column + width] = low_ranks[name].up.T
            row, column = row + rank, column + width
        return {self.down: down, self.up: up}


class AdapterPlaces:
    """Writes the places that ``wanted`` asks for: "all", or names of linears, as PEFT's
    ``target_modules``."""

    def __init__(self, graph: Graph, model: Model, wanted: str | Sequence[str] | None) -> None:
        self.graph, self.shapes = graph, model.shapes
        self.names = frozenset(taken(model, wanted))
        self.places: list[Place] = []

    def has(self, names: Sequence[str]) -> bool:
        """Whether any of these weights takes an adapter."""
        return not self.names.isdisjoint(names)

    def add(self, x: str, names: Sequence[str], stem: str, base: str, output: str) -> str:
        """base + x @ A @ B. [batch, T, K], [batch, T, N] -> [batch, T, N]"""
        outputs = tuple(self.shapes[name][0] for name in names)
        inputs = self.shapes[names[0]][1]
        place = Place(tuple(names), outputs, inputs, f"{stem}.lora_A", f"{stem}.lora_B")
        self.places.append(place)
        rank = f"{stem}.rank"
        down = np.zeros((inputs, 0), np.float32)
        up = np.zeros((0, sum(outputs)), np.float32)
        graph = self.graph
        graph.optional_input(place.down, "float32", (inputs, rank), down)
        graph.optional_input(place.up, "float32", (rank, sum(outputs)), up)
        narrow = graph.node("MatMul", [x, place.down], f"{output}.narrow")
        change = graph.node("MatMul", [narrow, place.up], f"{output}.change")
        return graph.node("Add", [base, change], output)

    def facts(self) -> list[dict[str, Any]]:
        """The places for the manifest; ``places_of`` is the inverse."""
        return [asdict(each) for each in self.places]


def places_of(facts: Mapping[str, Any]) -> list[Place]:
    """The places of an artifact, out of its facts."""
    return [
        Place(
            tuple(each["weights"]),
            tuple(each["outputs"]),
            each["inputs"],
            each["down"],
            each["up"],
        )
        for each in facts.get("adapters", [])
    ]


def taken(model: Model, wanted: str | Sequence[str] | None) -> list[str]:
    """The linears that take adapters. Not experts, which one operation computes, nor a head that
    is the embedding too."""
    if not wanted:
        return []
    experts = {
        name for layer in model.moe_layers for each in layer for name in (*each.gate_up, each.down)
    }
    able = sorted(model.multiplied - model.looked_up - experts)
    return able if wanted == ALL else [name for name in able if is_named(name, wanted)]


def is_named(name: str, wanted: Collection[str]) -> bool:
    """Whether a weight's name is one of those, or ends with one."""
    return any(name == each or name.endswith(f".{each}") for each in wanted)


def problems(model: Model, wanted: Any) -> list[str]:
    """Names that no linear of the model has, one sentence each."""
    if not isinstance(wanted, list):
        return []
    return [
        f"artifacts.ort.adapters names {each}, and no linear that takes adapters has that name"
        for each in wanted
        if not taken(model, [each])
    ]
