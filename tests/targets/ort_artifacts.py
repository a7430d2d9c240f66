"""Emits ort artifacts of models for tests, and runs them beside the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slmkit.backend.interface import Job
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

FLOAT32_FLOOR = 100  # dB: ARCHITECTURE's floor for float32 arithmetic
SCHEMES = {
    "int4": {"encoding": "group-wise", "bits": 4, "group_size": 32, "scales": "two-level"},
    "int4-free-g64": {"encoding": "group-wise", "bits": 4, "group_size": 64},
    "int4-asymmetric": {"encoding": "group-wise", "bits": 4, "group_size": 32, "symmetric": False},
    "int4-per-channel": {"encoding": "per-channel", "bits": 4},
    "int8-g32": {"encoding": "group-wise", "bits": 8, "group_size": 32},
    "int8-g128": {"encoding": "group-wise", "bits": 8, "group_size": 128},
    "int8-asymmetric": {"encoding": "group-wise", "bits": 8, "group_size": 64, "symmetric": False},
    "int8-per-channel": {"encoding": "per-channel", "bits": 8},
    "float16": {"encoding": "float16"},
}


def recipe_of(scheme: str) -> Recipe:
    values = load_recipe("int4").model_dump()
    values["weights"] = [{"match": ["*"], "scheme": SCHEMES[scheme]}]
    return Recipe.model_validate(values)


def run_both(folder: Path, tmp_path: Path, scheme: str, mode: str):
    """Logits of the reference and of the artifact: chunks of 7, 9 and 14, then 20 single tokens."""
    checkpoint, recipe = open_checkpoint(folder), recipe_of(scheme)
    spec = checkpoint.spec
    codes = codes_of(checkpoint, matrix_schemes(spec, recipe), Cache(tmp_path / "c"), Silent())
    job = Job(
        "ort", listen(spec), lambda o: registry.run(o, spec), codes, {"accuracy_level": 4}, 128, 16,
        token_facts(checkpoint.tokenizer, folder),
    )  # fmt: skip
    backend = find_backend("ort")
    out = tmp_path / "ort"
    out.mkdir()
    artifact = backend.emit(job, out, lambda done, total: None)
    runner = backend.open_runner(out, artifact, mode)
    ids = np.random.default_rng(5).integers(0, spec.vocabulary, 50)
    got = [runner.feed(chunk) for chunk in np.split(ids, [7, 16, *range(30, 50)])]
    return logits(codes, spec, [ids])[0], np.concatenate(got)
