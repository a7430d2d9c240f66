"""Run the artifact as an app's host code would, with the manifest's facts only.

The sessions decide what runs: float graphs or QDQ graphs on the CPU, QDQ graphs or context binaries
on the emulator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.artifact import file_of
from slmkit.backend.interface import Artifact, SequenceState
from slmkit.backend.static_runner import Arrays, StaticRunner, Window, slots
from slmkit.ops import Floats, Rope
from slmkit_onnx.hexagon.contract import (
    CONTRACTS,
    NEW,
    PAST,
    STATES,
    Contract,
    state_shape,
    token_axis,
)
from slmkit_onnx.hexagon.host import Host
from slmkit_onnx.hexagon.lowering.emit import EMBED, FLOAT_EMBEDS
from slmkit_onnx.hexagon.lowering.ops import TAP
from slmkit_onnx.hexagon.verify.chain import Chain
from slmkit_onnx.sessions import cpu_session


class Cache:
    """The KV cache of one sequence, oldest token first, and its recurrent states.

    ``floats``: for the float graphs, whose cache is float32.
    """

    def __init__(self, state: SequenceState, contract: Contract, floats: bool) -> None:
        self.state = state
        self.contract = contract
        self.floats = floats
        self.buffers: Arrays = {}  # key_N, value_N: S tokens
        self.states: Arrays = {}  # conv_N, scan_N
        self.reset()

    def reset(self) -> None:
        """Set everything to zero; the zero of uint8 keys and values is 128."""
        size = (self.state.kv_heads, self.state.head_width, self.state.context_length)
        dtype = np.float32 if self.floats else self.contract.cache
        zero = 128 if dtype == "uint8" else 0
        for layer in self.state.attention_layers:
            for part in ("key", "value"):
                shape = self.contract.cache_shape(part, *size)
                self.buffers[f"{part}_{layer}"] = np.full(shape, zero, dtype)
        for each in self.state.states:
            state_dtype = np.float32 if self.floats else STATES[each.kind]
            shape = state_shape(each.kind, each.shape)
            self.states[f"{each.kind}_{each.layer}"] = np.zeros(shape, state_dtype)

    def past(self, length: int, window: Window) -> Arrays:
        """The past inputs of a graph after ``length`` tokens."""
        inputs: Arrays = {}
        for name, buffer in self.buffers.items():
            past = self._past_slots(name, buffer, length, window.past)
            inputs[f"{PAST}{name}"] = np.ascontiguousarray(past)
        for name, state in self.states.items():
            inputs[f"{PAST}{name}"] = state
        return inputs

    def append(self, outputs: Arrays, length: int, tokens: int) -> None:
        """Append the keys and values of ``tokens`` tokens after ``length``; replace the states:
        those of the layers that ran.

        Keys and values of padding tokens are dropped.
        """
        self.states = {name: outputs.get(f"{NEW}{name}", old) for name, old in self.states.items()}
        for name in (each for each in self.buffers if f"{NEW}{each}" in outputs):
            axis, buffer = token_axis(name.partition("_")[0]), self.buffers[name]
            new = outputs[f"{NEW}{name}"]
            padding = new.shape[axis] - tokens
            real = slice(padding, None) if self.contract.slides else slice(0, tokens)
            target = [slice(None)] * 4
            source = list(target)
            target[axis], source[axis] = slice(length, length + tokens), real
            buffer[tuple(target)] = new[tuple(source)]

    def _past_slots(self, name: str, buffer: NDArray[Any], length: int, past: int) -> NDArray[Any]:
        """The ``past`` slots of a cache input."""
        axis = token_axis(name.partition("_")[0])
        if not self.contract.slides:
            return buffer.take(range(past), axis)
        # Slot past - 1 holds the newest token: rotate the buffer, so that empty slots come first.
        return np.roll(buffer, past - length, axis).take(range(past), axis)


class HexagonRunner(StaticRunner):
    """Run tokens through ``prefill`` and ``decode``; keep KV cache and states as an app would.

    ``chain``: the graphs' sessions. ``floats``: they are the float graphs. ``embeds``: their input
    is embeddings, even where the artifact's table lies in the graph.
    """

    def __init__(
        self,
        folder: Path,
        artifact: Artifact,
        runtime: str,
        chain: Chain,
        floats: bool,
        embeds: bool = False,
    ) -> None:
        facts = artifact.facts
        self.facts = facts
        self.runtime = runtime
        self.context_length = artifact.state.context_length
        self.chain = chain
        self.sizes, self.whole_chunks = chain.sizes, bool(artifact.state.states)
        self.floats = floats
        ropes = [Rope(tuple(each["frequencies"]), each["magnitude"]) for each in facts["ropes"]]
        contract = CONTRACTS[facts["contract"]]
        self.host = Host(ropes, facts["windows"], facts["hidden"], contract)
        self.embed = None
        if floats or embeds or facts["embedding"] == "host":
            table = file_of(folder, EMBED)
            self.embed = cpu_session(table, table.parent)
        self.cache = Cache(artifact.state, contract, floats)
        self.taps: dict[str, Floats] = {}

    @property
    def parts(self) -> int:
        """Parts of the model that are held one at a time; 1 if all are."""
        return self.chain.parts

    def open_part(self, number: int) -> None:
        """Hold one part alone; all is forgotten."""
        self.chain.open_part(number)
        self.reset()

    def reset(self) -> None:
        """Start a new sequence."""
        self.length = 0
        self.cache.reset()

    def step(self, ids: NDArray[np.int64], window: Window) -> Floats:
        """Run one graph on at most T tokens; return their logits. (n,) -> (n, V)"""
        size = window.tokens
        slides = self.cache.contract.slides
        queries, keys = slots(window, self.length, len(ids), slides)
        real = slice(size - len(ids), None) if slides else slice(0, len(ids))
        padded = np.zeros((1, size), dtype=np.int32)
        padded[0, real] = ids
        inputs: Arrays = {"input_ids": padded, **self.host.inputs(queries, keys)}
        inputs.update(self.cache.past(self.length, window))
        inputs.update(self._embeddings(padded))
        outputs = self.chain.run(size, inputs)
        self.cache.append(outputs, self.length, len(ids))
        self.taps = {
            name.removeprefix(TAP): value[0, real]
            for name, value in outputs.items()
            if name.startswith(TAP)
        }
        if "logits" not in outputs:  # of the last part alone
            return np.zeros((len(ids), 0), np.float32)
        logits: Floats = outputs["logits"][0, real]
        return logits

    def _embeddings(self, ids: NDArray[np.int32]) -> Arrays:
        """The input ``input_embeds`` if the host looks up embeddings. [1, T] -> [1, T, D]"""
        if self.embed is None:
            return {}
        as_float = self.floats or self.cache.contract.float_embeds
        name = FLOAT_EMBEDS if as_float else "input_embeds"
        return {"input_embeds": self.embed.run([name], {"input_ids": ids})[0]}
