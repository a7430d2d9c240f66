"""Tiny architectures under every scheme, on ONNX Runtime, against the reference on codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slmkit.backends import find_backend
from slmkit.cache import Cache
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.job import token_facts
from slmkit.memory import matrix_schemes
from slmkit.models import registry
from slmkit.plan import codes_of
from slmkit.progress import Silent
from slmkit.recipe import Recipe, load_recipe
from slmkit.record import listen
from slmkit.reference import logits
from slmkit.target import Job
from tiny_models import TINY

FLOAT32_FLOOR = 100  # dB: ARCHITECTURE's floor for float32 arithmetic
INT8_ACTIVATIONS = (
    20  # dB: level 4 rounds activations to 8 bits; tiny models have little to average
)
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


def snr_db(expected, got):
    return 10 * np.log10(np.square(expected).sum() / np.square(expected - got).sum())


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


@pytest.mark.parametrize("architecture", TINY)
def test_every_architecture_is_exact_at_level_0(tiny, tmp_path, architecture):
    expected, got = run_both(tiny(architecture), tmp_path, "int4", "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("architecture", ["llama-narrow-heads", "qwen2"])
def test_every_scheme_is_exact_at_level_0(tiny, tmp_path, architecture, scheme):
    expected, got = run_both(tiny(architecture), tmp_path, scheme, "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR


@pytest.mark.parametrize("scheme", ["int4", "int4-asymmetric", "int8-g32", "int8-per-channel"])
def test_the_shipped_level_4_is_near(tiny, tmp_path, scheme):
    expected, got = run_both(tiny("llama-tied"), tmp_path, scheme, "shipped")
    assert snr_db(expected, got) > INT8_ACTIVATIONS


def test_weights_of_one_block_may_have_different_schemes(tiny, tmp_path, monkeypatch):
    mixed = [
        {"match": ["*"], "scheme": SCHEMES["int4"]},
        {"match": ["*.v_proj", "*.up_proj"], "scheme": SCHEMES["int8-g32"]},
        {"match": ["*"], "layers": [0], "scheme": SCHEMES["float16"]},
    ]
    values = {**load_recipe("int4").model_dump(), "weights": mixed}
    monkeypatch.setitem(globals(), "recipe_of", lambda scheme: Recipe.model_validate(values))
    expected, got = run_both(tiny("qwen2"), tmp_path, "mixed", "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR


@pytest.mark.parametrize("width", [40, 72, 100, 172])
def test_widths_that_no_group_divides_are_exact(tiny, tmp_path, width):
    folder = tiny("llama-tied", hidden_size=width, head_dim=16, intermediate_size=width + 4)
    expected, got = run_both(folder, tmp_path, "int8-per-channel", "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR
