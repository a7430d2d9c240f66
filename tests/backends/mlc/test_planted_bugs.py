"""Bugs planted into parameters, program or host of a program: the float32 gate finds each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tvm_ffi

from artifacts import FLOAT32_FLOOR, reference_of, token_snr_db
from mlc_artifacts import machine_of, mlc_job, run_machine
from slmkit_mlc.lowering.program import PARITY_FUNCTIONS
from slmkit_mlc.verify.machine import Machine
from tiny_models import tiny_config, write_checkpoint

LAYER = "model.layers.0"
FLIPS, CAUGHT = 30, 27  # of an embedding's rows, a prompt reads a few
Arrays = dict[str, np.ndarray]


@dataclass
class Planted:
    """The machine's parameters, open for surgery; patches of the host."""

    params: Arrays
    machine: Machine
    patch: pytest.MonkeyPatch

    def change(self, name: str, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Other numbers for a parameter of the first layer."""
        name = f"{LAYER}.{name}"
        self.params[name] = np.ascontiguousarray(function(self.params[name].copy()))


def swapped_kv_heads(planted: Planted) -> None:
    def swap(values):  # N-major: rows 64 to 96 are k, of two heads
        values[64:96] = np.roll(values[64:96], 16, axis=0)
        return values

    planted.change("self_attn.qkv_proj.q_weight", swap)
    planted.change("self_attn.qkv_proj.q_scale", swap)


def swapped_gate_and_up(planted: Planted) -> None:
    for part in ("q_weight", "q_scale"):
        planted.change(f"mlp.gate_up_proj.{part}", lambda values: np.roll(values, 96, axis=0))


def swapped_nibbles(planted: Planted) -> None:
    def swap(words):
        low = words & np.uint32(0x0F0F0F0F)
        return (low << np.uint32(4)) | ((words >> np.uint32(4)) & np.uint32(0x0F0F0F0F))

    planted.change("mlp.down_proj.q_weight", swap)


def transposed_scales(planted: Planted) -> None:
    planted.change("self_attn.o_proj.q_scale", lambda values: values.T.reshape(values.shape))


def scales_of_another_row(planted: Planted) -> None:
    planted.change("mlp.gate_up_proj.q_scale", lambda values: np.roll(values, 1, axis=0))


def scales_not_negated(planted: Planted) -> None:
    planted.change("mlp.down_proj.q_scale", lambda values: -values)


def norm_of_another_place(planted: Planted) -> None:
    planted.change("input_layernorm.weight", lambda values: np.roll(values, 1))


def lost_bias(planted: Planted) -> None:
    planted.change("self_attn.qkv_proj.bias", lambda values: values * 0)


def chunk_of_another_length(planted: Planted) -> None:
    """A position too many is begun before decoding: every later one is off by one."""
    right = planted.machine.call
    late = [True]

    def call(function, ids, lengths=(), *more):
        if function == "decode" and late:
            late.clear()
            right("decode", ids)
        return right(function, ids, lengths, *more)

    planted.patch.setattr(planted.machine, "call", call)


def stale_cache(planted: Planted) -> None:
    """The last tokens of each chunk are taken back out of the cache."""
    right = planted.machine.call

    def call(function, ids, lengths=(), *more):
        found = right(function, ids, lengths, *more)
        if function == "batch_verify":
            planted.machine.update_states("popn", 0, 1)
        return found

    planted.patch.setattr(planted.machine, "call", call)


BUGS = [
    swapped_kv_heads,
    swapped_gate_and_up,
    swapped_nibbles,
    transposed_scales,
    scales_of_another_row,
    scales_not_negated,
    norm_of_another_place,
    lost_bias,
    chunk_of_another_length,
    stale_cache,
]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    model = write_checkpoint(folder / "model", tiny_config("qwen2"))
    job = mlc_job(model, folder, "int4-g32", "ios")
    machine, definition = machine_of(job, folder, functions=PARITY_FUNCTIONS)
    return machine, dict(definition.table.values(job.codes)), job, reference_of(job)


def worst_db(original, patch, plant) -> float:
    machine, params, job, expected = original
    planted = Planted(dict(params), machine, patch)
    plant(planted)
    kept = machine.params
    machine.params = tvm_ffi.Array([machine.tensor(each) for each in planted.params.values()])
    machine.reset()
    try:
        return float(token_snr_db(expected, run_machine(machine, job)).min())
    finally:
        machine.params = kept


def test_the_surgery_itself_changes_nothing(original, monkeypatch):
    assert worst_db(original, monkeypatch, lambda planted: None) > FLOAT32_FLOOR


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_parity_catches(original, monkeypatch, plant):
    found = worst_db(original, monkeypatch, plant)
    assert not found >= FLOAT32_FLOOR, f"{found:.1f} dB"


@pytest.mark.parametrize("wrong", ["frequencies", "eps"])
def test_parity_catches_a_wrong_program(original, tmp_path, wrong):
    """Another rope, another eps: the program is compiled anew."""
    from dataclasses import replace

    from slmkit.ops import Rope

    _, _, job, expected = original
    spec = job.spec
    changes: dict[str, dict[str, Any]] = {
        "frequencies": {"rope": Rope(tuple(f * 1.01 for f in spec.rope.frequencies))},
        "eps": {"eps": 1e-3},
    }
    model = replace(job.model, spec=replace(spec, **changes[wrong]))
    machine, _ = machine_of(replace(job, model=model), tmp_path, functions=PARITY_FUNCTIONS)
    found = float(token_snr_db(expected, run_machine(machine, job)).min())
    assert not found >= FLOAT32_FLOOR, f"{found:.1f} dB"


def test_most_single_bit_flips_in_the_codes_are_caught(original, monkeypatch):
    random, caught = np.random.default_rng(11), 0
    names = sorted(n for n in original[1] if n.endswith("q_weight") and "embed" not in n)

    for _ in range(FLIPS):

        def flip(planted: Planted) -> None:
            name = names[random.integers(len(names))]
            words = planted.params[name].copy()
            at = random.integers(words.size)
            words.reshape(-1)[at] ^= np.uint32(1 << random.integers(32))
            planted.params[name] = words

        caught += not worst_db(original, monkeypatch, flip) >= FLOAT32_FLOOR
    assert caught >= CAUGHT, f"{caught} of {FLIPS}"
