"""Bugs that show at a boundary alone, planted into every artifact: the text as long as the context
finds each of them, and the right artifact passes.

A bug is planted as what it is in effect: the artifact is emitted from wrong facts, or wrong codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy

from artifacts import FLOAT32_FLOOR, Weights, emitted, make_job, rule, token_snr_db
from coreml_artifacts import coreml_job
from hexagon_artifacts import hexagon_job
from litert_artifacts import litert_job
from mlc_artifacts import machine_of, mlc_job, shifted_copy_kernel
from slmkit.backend.interface import Job
from slmkit.backend.registry import find_backend
from slmkit.interpreters.recorder import summarize
from slmkit.models.blocks import EMBEDDING
from slmkit.models.spec import Spec
from slmkit.ops import Floats
from slmkit.parity.crossing import Crossing, crossing_of, follow_crossing, reference_crossing
from slmkit.quant.codes import CodesFile
from slmkit_mlc.lowering import recurrent_state
from slmkit_mlc.lowering.program import PARITY_FUNCTIONS
from tiers import ROWS, some
from tiny_models import tiny_config, write_checkpoint

ARTIFACTS = ("ort", "hexagon", "litert", "coreml", "mlc")
CONTEXT, WINDOW = 96, 70
LONGEST_PROMPT = 64  # of the golden prompts: bugs beyond it are not theirs to find
GEMMA3 = ("gemma3", {"sliding_window": WINDOW})
MISTRAL = ("mistral-window", {"sliding_window": WINDOW})


def windows(change: Callable[[int], int | None]) -> Callable[[Spec], Spec]:
    """Other sliding windows."""
    return lambda spec: replace(spec, windows=tuple(each and change(each) for each in spec.windows))


def swapped_ropes(spec: Spec) -> Spec:
    assert spec.local_rope is not None
    return replace(spec, rope=spec.local_rope, local_rope=spec.rope)


def rope_of_the_other_half(spec: Spec) -> Spec:
    assert spec.long_rope is not None
    return replace(spec, rope=spec.long_rope.rope)


# Row and changes of the tiny model, and the wrong facts.
WRONG: dict[str, tuple[tuple[str, dict[str, Any]], Callable[[Spec], Spec]]] = {
    "a window that is one too long": (MISTRAL, windows(lambda window: window + 1)),
    "a window that is one too short": (GEMMA3, windows(lambda window: window - 1)),
    "a window that is ignored": (MISTRAL, windows(lambda window: None)),
    "local and global rope swapped": (GEMMA3, swapped_ropes),
    "the rope of the long context": (("phi3-long", {}), rope_of_the_other_half),
    "no soft cap of scores": (
        ("gemma2", {"sliding_window": WINDOW}),
        lambda spec: replace(spec, attention_cap=None),
    ),
    "an attention scale one percent off": (
        GEMMA3,
        lambda spec: replace(
            spec, attention_scale=1.01 * (spec.attention_scale or spec.head_width**-0.5)
        ),
    ),
    "eps ten times too large": (GEMMA3, lambda spec: replace(spec, eps=10 * spec.eps)),
}
BEYOND = ("a window that is one too long", "a window that is ignored")  # no short prompt sees them


def make(artifact: str, folder: Path, scratch: Path, weights: Weights = "int4-g32") -> Job:
    """A job of the artifact, whose context is longer than any golden prompt."""
    jobs: dict[str, Callable[[], Job]] = {
        "ort": lambda: make_job("ort", folder, scratch, weights),
        "hexagon": lambda: hexagon_job(folder, scratch, weights),
        "litert": lambda: litert_job(folder, scratch, weights),
        "coreml": lambda: coreml_job(folder, scratch, weights),
        "mlc": lambda: mlc_job(folder, scratch, weights),
    }
    return replace(jobs[artifact](), context_length=CONTEXT)


class MachineRunner:
    """MLC's program in TVM's virtual machine, as a runner."""

    def __init__(self, job: Job, scratch: Path) -> None:
        self.machine, self.definition = machine_of(job, scratch, functions=PARITY_FUNCTIONS)

    def reset(self) -> None:
        self.machine.reset()

    def feed(self, ids: np.ndarray) -> Floats:
        most, found = self.definition.limits.prefill, []
        for at in range(0, len(ids), most):
            part = ids[at : at + most]
            name = "decode" if len(part) == 1 else "batch_verify"
            found.append(self.machine.call(name, part)[0][0])
        return np.concatenate(found)


def opened(job: Job, scratch: Path) -> Any:
    """The artifact's runner, in the mode that shows errors of lowering."""
    if job.artifact == "mlc":
        return MachineRunner(job, scratch)
    artifact = emitted(job, scratch / job.artifact)
    backend = find_backend(job.artifact)
    return backend.open_runner(scratch / job.artifact, artifact, artifact.modes[0].name)


def crossing_for(job: Job) -> Crossing:
    ids = np.random.default_rng(7).integers(2, job.spec.vocabulary, CONTEXT)
    crossing, missed = crossing_of([ids], job.spec, CONTEXT, job.prefill_chunk, 1000)
    assert missed == ""
    return crossing


def measure(job: Job, wrong: Job, scratch: Path) -> np.ndarray:
    """Signal to noise at each compared position of an artifact that is emitted from ``wrong``."""
    crossing = crossing_for(job)
    expected = reference_crossing(job.codes, job.spec, crossing)
    return token_snr_db(
        expected, follow_crossing(opened(wrong, scratch), crossing, lambda done: None)
    )


@pytest.mark.parametrize("artifact", some(ARTIFACTS, "ort", why=ROWS))
@pytest.mark.parametrize("bug", some(list(WRONG), *BEYOND, why=ROWS))
def test_a_bug_at_a_boundary_is_found(tmp_path, artifact, bug):
    (row, changes), plant = WRONG[bug]
    folder = write_checkpoint(tmp_path / "tiny", tiny_config(row, **changes))
    job = make(artifact, folder, tmp_path)
    wrong = replace(job, model=summarize(plant(job.spec)))
    found = measure(job, wrong, tmp_path)
    assert not found.min() > FLOAT32_FLOOR, f"{found.min():.1f} dB"
    if bug in BEYOND:
        kept = np.asarray(crossing_for(job).kept)
        assert found[kept < LONGEST_PROMPT].min() > FLOAT32_FLOOR


Arrays = dict[str, np.ndarray]


def without_last_row(arrays: Arrays) -> None:
    """Zeros in the last row of the embedding."""
    arrays[f"{EMBEDDING}.codes"][-1] = 128


def two_experts_swapped(arrays: Arrays) -> None:
    """The router's first expert is the second one, in one layer."""
    first, second = (f"model.layers.1.mlp.experts.{number}." for number in (0, 1))
    for name in [each for each in arrays if each.startswith(first)]:
        other = second + name.removeprefix(first)
        arrays[name], arrays[other] = arrays[other], arrays[name]


def queries_of_global_layers_larger(arrays: Arrays) -> None:
    """An attention scale one percent off in the layers without a window; the weight is w - 1."""
    name = "model.layers.1.self_attn.q_norm.weight"
    arrays[name] = (1.01 * (1 + arrays[name].astype(np.float64)) - 1).astype(np.float16)


# Row and changes of the tiny model, and what its codes become.
WRONG_CODES: dict[str, tuple[tuple[str, dict[str, Any]], Callable[[Arrays], None]]] = {
    "a lost last row of the embedding": (("llama", {}), without_last_row),
    "the order of two experts": (("olmoe", {}), two_experts_swapped),
    "the attention scale of one kind of layer": (GEMMA3, queries_of_global_layers_larger),
}


def changed(codes: CodesFile, change: Callable[[Arrays], None], path: Path) -> CodesFile:
    """The codes after a change."""
    with safetensors.safe_open(codes.path, "np") as file:
        facts = file.metadata()
    arrays = safetensors.numpy.load_file(codes.path)
    change(arrays)
    safetensors.numpy.save_file(arrays, path, facts)
    return CodesFile(path)


@pytest.mark.parametrize("artifact", some(ARTIFACTS, "ort", why=ROWS))
@pytest.mark.parametrize("bug", list(WRONG_CODES))
def test_wrong_codes_are_found(tmp_path, artifact, bug):
    (row, changes), change = WRONG_CODES[bug]
    folder = write_checkpoint(tmp_path / "tiny", tiny_config(row, **changes))
    weights = [rule("int4-g32"), rule("int8-per-channel", EMBEDDING)]
    job = make(artifact, folder, tmp_path, weights)
    wrong = changed(job.codes, change, tmp_path / "wrong.safetensors")
    found = measure(job, replace(job, codes=wrong), tmp_path)
    assert not found.min() > FLOAT32_FLOOR


@pytest.mark.parametrize("artifact", some(ARTIFACTS, "ort", why=ROWS))
@pytest.mark.parametrize(
    "row", some(["gemma3", "mistral-window", "gemma2", "llama", "lfm2"], "gemma3", why=ROWS)
)
def test_the_right_artifact_keeps_every_boundary(tmp_path, artifact, row):
    changes = {} if row in ("llama", "lfm2") else {"sliding_window": WINDOW}
    folder = write_checkpoint(tmp_path / "tiny", tiny_config(row, **changes))
    job = make(artifact, folder, tmp_path)
    found = measure(job, job, tmp_path)
    assert found.min() > FLOAT32_FLOOR, f"{found.min():.1f} dB"


@pytest.mark.parametrize("artifact", some(ARTIFACTS, "ort", why=ROWS))
def test_an_overwritten_last_slot_is_found(tmp_path, artifact):
    """In effect: the context's last token takes the slot of the one before it."""
    job = make(artifact, write_checkpoint(tmp_path / "tiny", tiny_config("llama")), tmp_path)
    crossing, runner = crossing_for(job), opened(job, tmp_path)
    expected = reference_crossing(job.codes, job.spec, crossing)
    found = follow_crossing(runner, crossing, lambda done: None)
    before_last = replace(crossing, ids=np.delete(crossing.ids, -2), kept=(CONTEXT - 2,))
    found[-1] = follow_crossing(runner, before_last, lambda done: None)[-1]
    assert crossing.kept[-1] == CONTEXT - 1
    by_position = token_snr_db(expected, found)
    assert by_position[:-1].min() > FLOAT32_FLOOR > by_position[-1]


def shift(states: dict[str, Any]) -> None:
    """Every convolution's state, moved by one token."""
    for name in [each for each in states if "conv" in each]:
        held = states[name]
        array = held.numpy() if isinstance(held, onnxruntime.OrtValue) else held
        if CONV_STATE not in array.shape:  # Core ML keeps the numbers in rows, tokens last
            array = array.reshape(-1, CONV_STATE)
        tokens = min(axis for axis, size in enumerate(array.shape) if size == CONV_STATE)
        moved = np.roll(array, 1, tokens)
        if isinstance(held, onnxruntime.OrtValue):
            states[name] = type(held).ortvalue_from_numpy(moved)
        else:
            states[name] = moved.reshape(held.shape)


class ShiftingRunner:
    """A runner whose convolutions' states move between two calls."""

    def __init__(self, runner: Any, states: Callable[[Any], dict[str, Any]]) -> None:
        self.runner, self.states = runner, states

    def reset(self) -> None:
        self.runner.reset()

    def feed(self, ids: np.ndarray) -> Floats:
        logits: Floats = self.runner.feed(ids)
        shift(self.states(self.runner))
        return logits


HELD: dict[str, Callable[[Any], dict[str, Any]]] = {  # a runner's states by name
    "ort": lambda runner: runner.past,
    "hexagon": lambda runner: runner.cache.states,
    "litert": lambda runner: runner.caches,
    "coreml": lambda runner: runner.packages[0].states.arrays,
}
CONV_STATE = 2  # tokens that a convolution of lfm2 remembers


@pytest.mark.parametrize("artifact", some(ARTIFACTS, "ort", why=ROWS))
def test_a_convolution_whose_state_is_shifted_is_found(tmp_path, artifact, monkeypatch):
    job = make(artifact, write_checkpoint(tmp_path / "tiny", tiny_config("lfm2")), tmp_path)
    crossing = crossing_for(job)
    expected = reference_crossing(job.codes, job.spec, crossing)
    if artifact == "mlc":
        monkeypatch.setattr(recurrent_state, "copy_kernel", shifted_copy_kernel)
        runner = opened(job, tmp_path)
    else:
        runner = ShiftingRunner(opened(job, tmp_path), HELD[artifact])
    found = token_snr_db(expected, follow_crossing(runner, crossing, lambda done: None))
    first_chunk = np.asarray(crossing.kept) < job.prefill_chunk
    assert found[first_chunk].min() > FLOAT32_FLOOR > found[~first_chunk].max()
