"""Tiny architectures as Relax programs on LLVM, with the paged KV cache, against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from artifacts import FLOAT32_FLOOR, ids_for, reference_of, snr_db, token_snr_db
from mlc_artifacts import FLOAT16_FLOOR, TAKEN, machine_of, mlc_job, program_of, run_machine
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit_mlc.contract import COPIES
from slmkit_mlc.lowering.definition import definition_for
from slmkit_mlc.lowering.kv_cache import NO_ROTATION, cache_rope
from slmkit_mlc.lowering.program import PARITY_FUNCTIONS, Writer
from slmkit_mlc.verify.machine import cpu_target
from tiers import ROWS, SCHEMES, some
from tiny_models import tiny_config

LAYOUTS = {"android": "K-major", "ios": "N-major"}


PLACES = [  # one program holds every scheme
    "0.self_attn.[qkv]_proj",
    "0.self_attn.o_proj",
    "0.mlp.gate_proj",
    "0.mlp.up_proj",
    "0.mlp.down_proj",
    "1.self_attn.[qkv]_proj",
    "1.self_attn.o_proj",
    "1.mlp.*_proj",
]


@pytest.mark.parametrize("target", some(LAYOUTS, "android", why=SCHEMES))
def test_every_scheme_keeps_the_floor(tiny, tmp_path, target):
    job = mlc_job(tiny("llama-biases"), tmp_path, dict(zip(PLACES, TAKEN, strict=True)), target)
    assert len({str(scheme) for scheme in job.codes.schemes.values()}) >= len(TAKEN)
    machine, _ = machine_of(job, tmp_path, functions=PARITY_FUNCTIONS)
    assert token_snr_db(reference_of(job), run_machine(machine, job)).min() > FLOAT32_FLOOR


def test_float16_keeps_its_floor(tiny, tmp_path):
    job = mlc_job(tiny("mistral-window"), tmp_path)
    machine, _ = machine_of(job, tmp_path, "float16", PARITY_FUNCTIONS)
    assert snr_db(reference_of(job), run_machine(machine, job)) > FLOAT16_FLOOR


@pytest.mark.full(SCHEMES)
def test_widths_that_no_group_divides(tiny, tmp_path):
    job = mlc_job(tiny("llama-narrow-heads"), tmp_path, "int4-g32")
    expected = reference_of(job)
    for dtype, floor in (("float32", FLOAT32_FLOOR), ("float16", FLOAT16_FLOOR)):
        machine, _ = machine_of(job, tmp_path / dtype, dtype, PARITY_FUNCTIONS)
        assert snr_db(expected, run_machine(machine, job)) > floor


@pytest.fixture(scope="module", params=some(["qwen2", "mamba"], "qwen2", why=ROWS))
def whole(tmp_path_factory, request):
    """A machine with every function of the contract: of a KV cache, and of recurrent states."""
    from tiny_models import tiny_config, write_checkpoint

    folder = tmp_path_factory.mktemp("whole")
    job = mlc_job(write_checkpoint(folder / "model", tiny_config(request.param)), folder)
    return machine_of(job, folder)[0], job, reference_of(job)


def close(expected: np.ndarray, got: np.ndarray) -> bool:
    return snr_db(expected, got) > FLOAT32_FLOOR


def test_prefill_gives_the_last_token_s_logits_and_so_does_extend(whole):
    machine, job, expected = whole
    machine.reset()
    assert close(expected[11], machine.call("prefill", ids_for(job)[:12])[0][0, 0])
    assert close(expected[15], machine.call("extend", ids_for(job)[12:16])[0][0, 0])
    assert set(COPIES) == {"extend", "batch_extend"}


def test_sequences_of_a_batch_do_not_see_each_other(whole):
    """Sequence 0 is the reference's; sequence 1 begins in its middle, and disturbs nothing."""
    machine, job, expected = whole
    machine.reset()
    machine.update_states("add_sequence", 1)
    ids, other = ids_for(job), ids_for(job)[20:]
    positions = machine.tensor(np.array([7, 12], np.int32))
    both = np.concatenate([ids[:8], other[:5]])
    first = machine.call("batch_prefill", both, (8, 5), positions)[0]
    assert close(expected[7], first[0, 0])
    second = machine.call("batch_decode", np.array([ids[8], other[5]]), (1, 1))[0]
    assert close(expected[8], second[0, 0])
    machine.reset()
    alone = machine.call("batch_verify", other[:6])[0][0]
    assert close(alone[4], first[0, 1])
    assert close(alone[5], second[1, 0])


def test_a_machine_forgets(whole):
    machine, job, _ = whole
    machine.reset()
    first = machine.call("batch_verify", ids_for(job)[:9])[0]
    machine.reset()
    np.testing.assert_array_equal(machine.call("batch_verify", ids_for(job)[:9])[0], first)


def test_taps_of_a_debug_build_are_the_reference_s(tiny, tmp_path):
    from slmkit.interpreters.reference import taps
    from slmkit_mlc.runner import MlcRunner

    job = mlc_job(tiny("llama"), tmp_path, debug=True)
    runner = MlcRunner(tmp_path, program_of(job, tmp_path), "float32")
    ids = ids_for(job)[:5]
    runner.feed(ids)
    expected = taps(job.codes, job.spec, ids)
    assert set(runner.taps) == set(expected) - {"logits"}
    for name, value in runner.taps.items():
        assert snr_db(expected[name], value) > FLOAT32_FLOOR, name


def kernels_of(job) -> set[str]:
    """Names of everything in a decode step."""
    program = definition_for(job).program("float32")
    mod = Writer(program).module(cpu_target(), ("decode",), [])
    return {own.name_hint for own in mod.get_global_vars()}


def test_experts_of_one_scheme_are_read_by_choice(tiny, tmp_path):
    """One kernel for the gates and ups of all, one for the downs."""
    names = kernels_of(mlc_job(tiny("granite-moe"), tmp_path))
    assert {"grown", "shrunk"} <= names
    assert not any(name.startswith("weighed") for name in names)


@pytest.mark.full(SCHEMES)
def test_experts_of_several_schemes_are_all_computed(tiny, tmp_path):
    mixed = {f"{at}.block_sparse_moe.input_linear.1": "int8-per-channel" for at in (0, 1)}
    job = mlc_job(tiny("granite-moe"), tmp_path, mixed)
    names = kernels_of(job)
    assert not {"grown", "shrunk"} & names
    assert "weighed" in names
    machine, _ = machine_of(job, tmp_path, functions=PARITY_FUNCTIONS)
    assert token_snr_db(reference_of(job), run_machine(machine, job)).min() > FLOAT32_FLOOR


def test_the_cache_applies_a_rope_only_if_every_layer_has_it():
    spec = read_spec(Config(tiny_config("qwen2"), "config.json"))
    assert cache_rope(spec) == spec.rope
    for layers in ((0,), (0, 1)):
        assert cache_rope(replace(spec, nope_layers=layers)) == NO_ROTATION
    assert cache_rope(read_spec(Config(tiny_config("gemma3"), "config.json"))) == NO_ROTATION
