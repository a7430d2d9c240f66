"""A .tflite's graphs in LiteRT's interpreter: as they are stored, or with weights in float32.

XNNPACK packs all weights once more for each graph. Where the memory to do so is not given, the
graphs run in parts of a few layers, one after the other: every part is given the same calls, and
what a call hands from part to part is kept meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from slmkit.backend.memory import give_back, may_keep
from slmkit.backend.static_runner import Arrays, Calls
from slmkit.backend.threads import threads
from slmkit.system.scratch import scratch
from slmkit_litert.contract import DECODE, PROOF
from slmkit_litert.lowering.weight_binding import read_model
from slmkit_litert.verify.copies import (
    float_bytes,
    stored_bytes,
    write_float_copy,
    write_proof_copy,
    write_stored_part,
)
from slmkit_litert.verify.parts import BETWEEN, PartsPlan, plan_parts

THREADS = 2
XNNPACK, BUILT_IN = "XNNPACK", "LiteRT's own kernels"
# Bytes that XNNPACK may keep: of a whole model in float32, which it takes a third of the time of
# LiteRT's own kernels for, and of a part. In float32, two or three parts take 10 to 25 % more time
# than SmolLM2-135M whole, and 0.9 to 1.2 GB less; as stored, 1.2 billion weights of 4 bits take
# three parts and 1.8 GB, where the whole took 4.7.
MOST, MOST_OF_PART = 4 * 10**9, 12 * 10**8
PACKED = 3  # copies of a weight that XNNPACK makes: for prefill, decode and the graph of the proof


class Graphs(ABC):
    """The graphs of a .tflite, with that of the proof, which lies beside it: whole, or in parts."""

    def __init__(self, model: Path, proof: Path | None) -> None:
        self._model, self._proof = model, proof
        self._packed = PACKED if proof else PACKED - 1
        self._part: int | None = None  # that is open; None: the whole model
        self.signatures: dict[str, Any] = {}
        self._calls = Calls()

    @property
    def kernels(self) -> str:
        """Those that run."""
        return XNNPACK

    @abstractmethod
    def _sizes(self) -> Mapping[str, int]:
        """Bytes of each weight by its tensor's name, in the type that it has here."""

    @abstractmethod
    def _opened(self, name: str) -> dict[str, Any]:
        """The signatures of the whole model, ``name`` among them."""

    @abstractmethod
    def _opened_part(self, number: int) -> dict[str, Any]:
        """The signatures of one part."""

    @cached_property
    def _whole(self) -> int:
        """Bytes of all weights."""
        return sum(self._sizes().values())

    @cached_property
    def _room(self) -> int:
        """Bytes of a part's weights that may be packed once for each graph."""
        return may_keep(MOST_OF_PART) // self._packed

    @cached_property
    def _plan(self) -> PartsPlan:
        """Parts that fit into the room with their own copy."""
        whole = self._whole <= self._room
        limit = self._whole if whole else self._room * self._packed // (self._packed + 1)
        return plan_parts(read_model(self._model)[0], DECODE, self._sizes(), limit)

    @property
    def parts(self) -> int:
        """Parts that may be held at a time: 1 where the whole model may be."""
        return len(self._plan.sizes)

    def open_part(self, number: int) -> None:
        """Hold one part alone, whose calls begin anew."""
        self._part = number
        self._calls.begin()
        self.signatures.clear()
        give_back()
        self.signatures = self._opened_part(number)

    def call(self, name: str, inputs: Mapping[str, Any]) -> Arrays:
        """The outputs of a signature, by name: those that the open part makes."""
        if self._part is None:
            if name not in self.signatures:
                self.signatures |= self._opened(name)
            return _call(self.signatures[name], inputs)
        handed = self._calls.handed()
        if name not in self.signatures:  # this part has nothing of the graph
            return {}
        outputs = _call(self.signatures[name], {**inputs, **handed})
        made = {each: outputs.pop(each) for each in list(outputs) if each.startswith(BETWEEN)}
        self._calls.hand(made)
        return outputs


class StoredGraphs(Graphs):
    """The graphs over the weights as they are stored."""

    def _sizes(self) -> Mapping[str, int]:
        return stored_bytes(self._model)

    def _opened(self, name: str) -> dict[str, Any]:
        if name != PROOF or self._proof is None:
            return _signatures(_interpreter(self._model))
        with scratch() as folder:
            write_proof_copy(self._model, folder / "proof.tflite", self._proof)
            return _signatures(_interpreter(folder / "proof.tflite"))

    def _opened_part(self, number: int) -> dict[str, Any]:
        with scratch() as folder:
            path = folder / "part.tflite"
            write_stored_part(self._model, path, self._proof, self._plan, number)
            return _signatures(_interpreter(path))


class FloatGraphs(Graphs):
    """The graphs over a copy of the weights in float32."""

    def _sizes(self) -> Mapping[str, int]:
        return float_bytes(self._model)

    @cached_property
    def _packs_whole(self) -> bool:
        """Whether all weights may be packed."""
        return self._whole <= may_keep(MOST) // self._packed

    @property
    def kernels(self) -> str:
        """Those that run: a single weight that is larger than a part is not packed either."""
        return XNNPACK if self._part is not None or self._packs_whole else BUILT_IN

    def _opened(self, name: str) -> dict[str, Any]:
        return self._copied(None, 0, self._packs_whole)

    def _opened_part(self, number: int) -> dict[str, Any]:
        return self._copied(self._plan, number, self._plan.sizes[number] <= self._room)

    def _copied(self, plan: PartsPlan | None, number: int, packs: bool) -> dict[str, Any]:
        """The signatures of a copy, which is mapped: its file may be deleted at once."""
        with scratch() as folder:
            path = folder / "float32.tflite"
            write_float_copy(self._model, path, self._proof, plan, number)
            return _signatures(_interpreter(path, packs))


def _interpreter(path: Path, packs: bool = True) -> Interpreter:
    """An interpreter of a file; ``packs``: with XNNPACK, which packs weights."""
    options: dict[str, Any] = {}
    if not packs:
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        options["experimental_op_resolver_type"] = plain
    return Interpreter(model_path=str(path), num_threads=threads(THREADS), **options)


def _signatures(interpreter: Interpreter) -> dict[str, Any]:
    """Runners of all signatures, by name."""
    names = interpreter.get_signature_list()
    return {name: interpreter.get_signature_runner(name) for name in names}


def _call(signature: Any, inputs: Mapping[str, Any]) -> Arrays:
    """The outputs of a signature, which takes those ``inputs`` that its graph has."""
    names = signature.get_input_details()  # without attention there is no "mask"
    outputs: Arrays = signature(**{name: inputs[name] for name in names})
    return outputs
