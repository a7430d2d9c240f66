"""Keys and values as 8-bit integers: a graph that is exact without them, and their price."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from artifacts import (
    FLOAT32_FLOOR,
    emitted,
    floor_db,
    ids_for,
    make_job,
    reference_of,
    rule,
    run,
    snr_db,
    texts_of,
)
from genai_tokens import genai_tokens
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.inference.load import load
from slmkit.planning.memory import plan_memory
from slmkit.planning.plan import costs_of
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit_onnx.ort.elsewhere import open_engine
from slmkit_onnx.ort.integer_cache import MARGIN, STEPS
from slmkit_onnx.ort.options import problems
from slmkit_onnx.ort.runner import OrtRunner
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY, ort_request

OPTIONS = {"accuracy_level": 0, "kv_cache": "int8"}
FLOOR = 25  # dB: caches keep 38 dB themselves; tiny models with random weights are less steady
NARROW = ("llama-narrow-heads", "phi3-long", "mistral-window-narrow")  # the kernel refuses them
FUSED = [name for name in TINY if name not in ("mamba", "mamba2", *NARROW)]


def recipe_with(**options):
    whole = {**load_recipe("int4").model_dump(), "weights": [rule("int8-g32")]}
    return Recipe.model_validate({**whole, "artifacts": {"ort": options}})


def job_of(folder, scratch):
    texts = [each.tolist() for each in texts_of(open_checkpoint(folder), 8)]
    return make_job("ort", folder, scratch, recipe_with(**OPTIONS), texts=texts)


@pytest.mark.parametrize("row", some(FUSED, "qwen2", "gemma3", SAYS_MOST, why=ROWS))
def test_the_graph_is_exact_but_for_its_cache(tiny, tmp_path, row):
    job = job_of(tiny(row), tmp_path)
    artifact = emitted(job, tmp_path / "ort")
    types = {each.name: each.dtype for each in (*artifact.inputs, *artifact.outputs)}
    cached = [name for name in types if ".key" in name or ".value" in name]
    assert len(cached) == 4 * len(job.model.attention_layers)
    assert {types[name] for name in cached} == {"int8"}
    expected = reference_of(job)
    assert snr_db(expected, run(tmp_path / "ort", artifact, "exact", job)) > FLOAT32_FLOOR
    shipped = run(tmp_path / "ort", artifact, "shipped", job)
    assert FLOOR < floor_db(job, expected, shipped) < FLOAT32_FLOOR


def test_steps_cover_each_channel_on_calibration_text(tiny, tmp_path):
    """Keys as they are cached: after the rope, each layer's and channel's own."""
    job = job_of(tiny("qwen2"), tmp_path)
    artifact = emitted(job, tmp_path / "ort")
    runner = find_backend("ort").open_runner(tmp_path / "ort", artifact, "exact")
    assert isinstance(runner, OrtRunner)
    largest = dict[str, Any]()
    for text in job.calibration:
        runner.reset()
        runner.feed(np.array(text))
        for name, value in runner.past.items():
            found = np.abs(value.numpy()[0]).max(axis=1)
            largest[name] = np.maximum(largest.get(name, 0), found)
    graph = onnx.load(str(tmp_path / "ort" / "model.onnx"), load_external_data=False).graph
    tensors = [each for each in graph.initializer if each.name.endswith(".step")]
    steps = {each.name: numpy_helper.to_array(each) for each in tensors}
    for name, size in largest.items():
        np.testing.assert_allclose(steps[f"{name}.step"], size * MARGIN / STEPS, rtol=1e-3)


def test_a_step_that_is_too_small_is_seen(tiny, tmp_path):
    """Values beyond the range are cut off: the bug that a proof of the shipped mode must find."""
    job = job_of(tiny("qwen2"), tmp_path)
    artifact = emitted(job, tmp_path / "ort")
    path = tmp_path / "ort" / "model.onnx"
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("value.step"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 8, tensor.name))
    path.write_bytes(model.SerializeToString())
    assert snr_db(reference_of(job), run(tmp_path / "ort", artifact, "shipped", job)) < FLOOR - 5


def test_a_device_keeps_integers_too(tiny, tmp_path):
    job = job_of(tiny(SAYS_MOST), tmp_path)
    artifact = emitted(job, tmp_path / "ort")
    engine = open_engine(tmp_path / "ort", asdict(artifact), 1)
    runner = find_backend("ort").open_runner(tmp_path / "ort", artifact, "shipped")
    ids = ids_for(job)
    for part in (ids[:20], ids[20:21], ids[21:]):
        np.testing.assert_allclose(engine.feed(part), runner.feed(part), rtol=1e-4, atol=1e-4)
    assert {value.dtype for name, value in engine.past.items() if "key" in name} == {np.dtype("i1")}


def test_it_takes_a_quarter_of_the_memory_and_its_text_is_part_of_the_job(tiny):
    model = open_checkpoint(tiny("qwen2")).model
    caches, read = [], []
    for kind in ("float32", "int8"):
        own = recipe_with(kv_cache=kind)
        planned = plan_memory(model, own, 64, costs_of("ort", own))
        caches.append(planned.kv_cache)
        read.append(find_backend("ort").reads_calibration(own.options("ort")))
    assert caches[0] == 4 * caches[1]
    assert read == [False, True]


@pytest.mark.parametrize(
    ("row", "said"), [*((row, "multiple of 16") for row in NARROW), ("mamba", "no KV cache")]
)
def test_models_without_such_a_cache_are_refused(tiny, row, said):
    (problem,) = problems(open_checkpoint(tiny(row)).model, {}, OPTIONS)
    assert said in problem and "leave out the option kv_cache" in problem


def test_a_build_proves_it_and_genai_gives_its_tokens(tmp_path):
    recipe = tmp_path / "int8-cache.yaml"
    recipe.write_text(
        "extends: int4\nname: int8-cache\nsummary: As int4, with an int8 KV cache.\n"
        "artifacts: {ort: {kv_cache: int8}}\n"
    )
    folder = build(ort_request(SAMPLE_MODEL, str(recipe), tmp_path / "out"), Silent()).folder
    loaded = load(folder, mode="shipped")
    ids = loaded.tokenizer.prompt_ids("wake me at 6:45 tomorrow", False)
    tokens, logits = list[int](), loaded.runner.feed(np.array(ids))
    while not tokens or tokens[-1] not in loaded.tokenizer.stop_ids:
        tokens.append(int(logits[-1].argmax()))
        logits = loaded.runner.feed(np.array(tokens[-1:]))
    assert loaded.tokenizer.decode(tokens[:-1]) == (
        '{"intent":"alarm","day":"tomorrow","time":"06:45"}'
    )
    assert genai_tokens(folder, ids, 40) == tokens
