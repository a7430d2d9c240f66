"""Emits hexagon artifacts of tiny models for tests, and runs them beside the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from slmkit.backend.interface import Artifact, Job
from slmkit.backend.job import token_facts
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters.recorder import listen
from slmkit.interpreters.reference import logits
from slmkit.models import registry
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.plan import codes_of
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit_onnx.hexagon.modes import open_runner
from slmkit_onnx.hexagon.verify import fold_scales

CONTEXT, CHUNK, TOKENS = 64, 16, 50
FLOAT32_FLOOR = 100  # dB: ARCHITECTURE's floor for float32 arithmetic
ACTIVATIONS = (
    55  # dB: 16-bit activations between the weights, rounded; tiny models give 57 and more
)
EMULATOR = 50  # dB: HTP rounds each op's result once more, and cuts some
STEPS = [7, 16, *range(32, TOKENS)]  # chunks of 7, 9 and 16 tokens, then one by one

ALL_SCHEMES = {
    "int4-g32": {"encoding": "group-wise", "bits": 4, "group_size": 32, "scales": "two-level"},
    "int4-free-g32": {"encoding": "group-wise", "bits": 4, "group_size": 32},
    "int8-g32": {"encoding": "group-wise", "bits": 8, "group_size": 32},
    "int4-per-channel": {"encoding": "per-channel", "bits": 4},
    "int8-per-channel": {"encoding": "per-channel", "bits": 8},
    "float16": {"encoding": "float16"},
    "lut4-g16": {"encoding": "palette", "bits": 4, "group_rows": 16},
    "lut6-g16": {"encoding": "palette", "bits": 6, "group_rows": 16},
    "lut4-g8": {"encoding": "palette", "bits": 4, "group_rows": 8},
}


def recipe_of(scheme: dict[str, Any] | None) -> Recipe:
    """The recipe int4, or one scheme for every weight."""
    recipe = load_recipe("int4")
    if scheme is None:
        return recipe
    rules = [{"match": ["*"], "scheme": scheme}]
    return Recipe.model_validate({**recipe.model_dump(), "weights": rules})


def job_of(folder: Path, scratch: Path, recipe: Recipe | None = None, **options: Any) -> Job:
    """An emit job at a small context, calibrated with random ids, for one chip."""
    checkpoint, recipe = open_checkpoint(folder), recipe or load_recipe("int4")
    spec = checkpoint.spec
    codes = codes_of(checkpoint, matrix_schemes(spec, recipe), Cache(scratch / "c"), Silent())
    texts = np.random.default_rng(3).integers(0, spec.vocabulary, (64, CONTEXT))
    return Job(
        "hexagon", listen(spec), lambda o: registry.run(o, spec), codes,
        {"soc": ["sm8650"], **options}, CONTEXT, CHUNK,
        token_facts(checkpoint.tokenizer, folder), tuple(map(tuple, texts.tolist())),
    )  # fmt: skip


def emitted(job: Job, folder: Path) -> Artifact:
    """Write the artifact into a new folder."""
    folder.mkdir(parents=True)
    return find_backend("hexagon").emit(job, folder, lambda done, total: None)


def ids_for(job: Job) -> np.ndarray:
    return np.random.default_rng(5).integers(0, job.spec.vocabulary, TOKENS)


def reference_of(job: Job) -> np.ndarray:
    return logits(job.codes, job.spec, [ids_for(job)])[0]


def run(folder: Path, artifact: Artifact, mode: str, job: Job, most: int = TOKENS) -> np.ndarray:
    """Logits of the first ``most`` tokens in a mode."""
    runner = open_runner(folder, artifact, mode)
    steps = [step for step in STEPS if step < most]
    return np.concatenate([runner.feed(chunk) for chunk in np.split(ids_for(job)[:most], steps)])


def floor_db(job: Job, expected: np.ndarray, got: np.ndarray) -> float:
    """What arithmetic less precise than float32 is held to: signal to noise of the whole; of the
    median token, where near ties of a router make some tokens go through another expert."""
    if not job.spec.mixture:
        return snr_db(expected, got)
    return float(np.median([snr_db(*pair) for pair in zip(expected, got, strict=True)]))


def snr_db(expected: np.ndarray, got: np.ndarray) -> float:
    noise = np.square(expected - got, dtype=np.float64).sum()
    return float("inf") if noise == 0 else 10 * np.log10(np.square(expected).sum() / noise)


def check_ladder(job: Job, folder: Path) -> None:
    """Reference, float graph, QDQ on the CPU (as ONNX rounds, and as HTP cuts), QDQ on the
    emulator: each against the one before."""
    artifact, expected = emitted(job, folder), reference_of(job)
    exact = run(folder, artifact, "float", job)
    assert snr_db(expected, exact) > FLOAT32_FLOOR
    with patch.object(fold_scales, "cut", lambda source: source):
        rounded = run(folder, artifact, "qdq", job)
    assert floor_db(job, exact, rounded) > ACTIVATIONS
    integers = run(folder, artifact, "qdq", job)
    assert floor_db(job, exact, integers) > EMULATOR
    emulated = run(folder, artifact, "sm8650", job)
    assert floor_db(job, integers, emulated) > EMULATOR
    assert floor_db(job, expected, emulated) > EMULATOR
