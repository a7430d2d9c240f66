"""Run the artifact: its float twin and its QDQ graphs on the CPU, QDQ graphs and binaries on the
emulator. What an app's host code does is done here, from the manifest's facts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmkit.backend.interface import Artifact, SequenceState
from slmkit.backend.static_runner import StaticRunner, Window, slots
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
from slmkit_onnx.hexagon.lowering.emit import EMBED, EXACT_EMBEDS
from slmkit_onnx.hexagon.lowering.ops import TAP
from slmkit_onnx.sessions import cpu_session

Arrays = dict[str, NDArray[Any]]


class Chain:
    """The parts of one token count, one session each, run one after the other."""

    def __init__(self, sessions: Sequence[Any]) -> None:
        self.sessions = [
            (each, [i.name for i in each.get_inputs()], [o.name for o in each.get_outputs()])
            for each in sessions
        ]

    def run(self, given: Arrays) -> Arrays:
        """All outputs of all parts; each part reads what it needs of what is known."""
        known = dict(given)
        for session, inputs, outputs in self.sessions:
            values = session.run(outputs, {name: known[name] for name in inputs})
            known.update(zip(outputs, values, strict=True))
        return known


class Cache:
    """Of one sequence: all keys and values as they came out, oldest first; the states."""

    def __init__(self, state: SequenceState, contract: Contract, floats: bool) -> None:
        self.state = state
        self.contract = contract
        self.floats = floats
        self.buffers: Arrays = {}
        self.states: Arrays = {}
        self.reset()

    def reset(self) -> None:
        """Forget everything: zeros, in the integers' sense."""
        size = (self.state.kv_heads, self.state.head_width, self.state.context_length)
        dtype = np.float32 if self.floats else self.contract.cache
        for layer in self.state.attention_layers:
            for part in ("key", "value"):
                shape = self.contract.cache_shape(part, *size)
                zero = 0 if self.floats or self.contract.cache != "uint8" else 128
                self.buffers[f"{part}_{layer}"] = np.full(shape, zero, dtype)
        for each in self.state.states:
            kept = np.float32 if self.floats else STATES[each.kind]
            shape = state_shape(each.kind, each.shape)
            self.states[f"{each.kind}_{each.layer}"] = np.zeros(shape, kept)

    def past(self, length: int, window: Window) -> Arrays:
        """The graph's past inputs when ``length`` tokens are known."""
        keys_and_values = {
            f"{PAST}{name}": np.ascontiguousarray(self._slots(name, buffer, length, window.past))
            for name, buffer in self.buffers.items()
        }
        return keys_and_values | {f"{PAST}{name}": state for name, state in self.states.items()}

    def append(self, found: Arrays, length: int, tokens: int) -> None:
        """Keep the new states, and the new keys and values of ``tokens`` real tokens."""
        self.states = {name: found[f"{NEW}{name}"] for name in self.states}
        for name, buffer in self.buffers.items():
            axis = token_axis(name.partition("_")[0])
            new = found[f"{NEW}{name}"]
            room = new.shape[axis] - tokens
            real = slice(room, None) if self.contract.slides else slice(0, tokens)
            target = [slice(None)] * 4
            source = list(target)
            target[axis], source[axis] = slice(length, length + tokens), real
            buffer[tuple(target)] = new[tuple(source)]

    def _slots(self, name: str, buffer: NDArray[Any], length: int, past: int) -> NDArray[Any]:
        axis = token_axis(name.partition("_")[0])
        if not self.contract.slides:
            return buffer.take(range(past), axis)
        # Slot p - 1 holds the newest token: turn the buffer, so that empty slots come first.
        return np.roll(buffer, past - length, axis).take(range(past), axis)


class HexagonRunner(StaticRunner):
    """Feeds tokens through ``prefill`` and ``decode``; keeps the cache as an app would."""

    def __init__(
        self,
        folder: Path,
        artifact: Artifact,
        runtime: str,
        chains: dict[int, Chain],
        floats: bool,
        embeds: bool = False,
    ) -> None:
        facts = artifact.facts
        self.facts = facts
        self.runtime = runtime
        self.context_length = artifact.state.context_length
        self.chains = chains
        self.sizes, self.whole_chunks = tuple(chains), bool(artifact.state.states)
        self.floats = floats
        ropes = [Rope(tuple(each["frequencies"]), each["magnitude"]) for each in facts["ropes"]]
        contract = CONTRACTS[facts["contract"]]
        self.host = Host(ropes, facts["windows"], facts["hidden"], contract)
        self.embed = None
        if floats or embeds or facts["embedding"] == "host":
            self.embed = cpu_session(folder / EMBED, folder)
        self.cache = Cache(artifact.state, contract, floats)
        self.taps: dict[str, Floats] = {}

    def reset(self) -> None:
        """Forget the sequence."""
        self.length = 0
        self.cache.reset()

    def step(self, ids: NDArray[np.int64], window: Window) -> Floats:
        """Embeddings, tables, masks and past in; logits out, new keys and values kept."""
        size = window.tokens
        slides = self.cache.contract.slides
        queries, keys = slots(window, self.length, len(ids), slides)
        real = slice(size - len(ids), None) if slides else slice(0, len(ids))
        filled = np.zeros((1, size), dtype=np.int32)
        filled[0, real] = ids
        given: Arrays = {"input_ids": filled, **self.host.inputs(queries, keys)}
        given.update(self.cache.past(self.length, window))
        given.update(self._embedded(filled))
        found = self.chains[size].run(given)
        self.cache.append(found, self.length, len(ids))
        self.taps = {
            name.removeprefix(TAP): value[0, real]
            for name, value in found.items()
            if name.startswith(TAP)
        }
        logits: Floats = found["logits"][0, real]
        return logits

    def _embedded(self, ids: NDArray[np.int32]) -> Arrays:
        if self.embed is None:
            return {}
        exact = self.floats or self.cache.contract.float_embeds
        name = EXACT_EMBEDS if exact else "input_embeds"
        return {"input_embeds": self.embed.run([name], {"input_ids": ids})[0]}
