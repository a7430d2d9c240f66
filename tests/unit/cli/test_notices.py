"""What a checkpoint left open is said by every command that looks at it, and kept."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from checkpoint_edits import edit_config, edit_weights
from slmkit.bundle.manifest import read_manifest
from slmkit.cli.main import main
from tiers import BUILDS

LEFT = "left out 1 tensors of multi-token prediction"
AUTHOR = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}


def slmkit(*words, expect=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == expect, result.output + result.stderr
    return result.output


@pytest.fixture
def folder(tiny):
    path = tiny("llama")
    edit_weights(path, **{"mtp.fc.weight": np.ones(8, np.float32)})
    (path / "generation_config.json").write_text(json.dumps(AUTHOR))
    return path


def test_inspect_and_plan_say_notices(folder):
    assert LEFT in slmkit("inspect", folder)
    assert json.loads(slmkit("inspect", folder, "--json"))["notices"] == [LEFT]
    options = "--target", "android", "--artifacts", "ort", "--context", 64
    assert f"notice: {LEFT}" in slmkit("plan", "--model", folder, *options)
    found = json.loads(slmkit("plan", "--model", folder, *options, "--json"))
    assert found["notices"] == [LEFT]
    found = json.loads(slmkit("plan", "--model", folder / "config.json", *options, "--json"))
    assert not found["notices"]


def test_plan_says_what_a_build_would_refuse(folder):
    options = "--target", "android", "--artifacts", "ort", "--context", 64
    (folder / "adapter_config.json").write_text("{}")
    assert "the build would refuse these files" in slmkit("plan", "--model", folder, *options)
    edit_config(folder, quantization_config={"quant_method": "gptq"})
    slmkit("plan", "--model", folder / "config.json", *options)  # its weights lie beside
    (folder / "model.safetensors").unlink()
    said = slmkit("plan", "--model", folder, *options, expect=1)
    assert "already quantized (gptq)" in said


@pytest.mark.full(BUILDS)
def test_a_bundle_keeps_notices_and_the_author_s_settings(folder, tmp_path):
    edit_config(folder, eos_token_id=3)  # a bundle's tokenizer has no config.json
    out = tmp_path / "dist"
    options = "--target", "android", "--artifacts", "ort", "--context", 64
    said = slmkit("build", "--model", folder, *options, "--recipe", "float16", "--out", out)
    assert f"notice: {LEFT}" in said
    (bundle,) = out.iterdir()
    manifest = read_manifest(bundle)
    assert manifest.notices == (LEFT,)
    assert manifest.stop_ids == (3,)
    assert (manifest.generation.temperature, manifest.generation.top_k) == (0.7, 20)
    assert LEFT in slmkit("inspect", bundle)
    ask = "run", bundle, "--prompt", "hi", "--raw", "--max-tokens", 8
    greedy = {slmkit(*ask, "--temperature", 0, "--seed", seed) for seed in range(2)}
    narrow = {slmkit(*ask, "--top-k", 1, "--seed", seed) for seed in range(2)}
    sampled = {slmkit(*ask, "--seed", seed) for seed in range(4)}
    assert len(greedy) == len(narrow) == 1
    assert len(sampled) > 1
