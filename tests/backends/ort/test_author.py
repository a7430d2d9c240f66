"""genai_config.json says what the model's author says about generation, and genai follows it."""

from __future__ import annotations

import json

import onnxruntime_genai as genai
import pytest

from artifacts import emitted, make_job
from slmkit.checkpoint.folder import open_checkpoint
from slmkit_onnx.genai import search_options
from slmkit_onnx.ort.genai import genai_config
from tiny_models import tiny_config, write_checkpoint

SAID = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.3,
}


def written(folder, said):
    """An artifact whose author says so."""
    model = write_checkpoint(folder / "model", tiny_config("qwen2"))
    (model / "generation_config.json").write_text(json.dumps(said))
    job = make_job("ort", model, folder, "int4-g32")
    emitted(job, folder / "ort")
    return job, folder / "ort"


def answers(folder):
    """Answers of ten tokens, by the file's own settings, with three seeds."""
    model = genai.Model(str(folder))
    found = []
    for seed in range(3):
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=16, random_seed=seed)
        generator = genai.Generator(model, parameters)
        generator.append_tokens([5, 6, 7, 8, 9, 10])
        while not generator.is_done():
            generator.generate_next_token()
        found.append(tuple(generator.get_sequence(0)))
    return found


@pytest.mark.parametrize(
    ("said", "search", "different"),
    [
        (SAID, SAID, True),
        ({"do_sample": True, "top_k": 0}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0}, True),
        ({**SAID, "do_sample": False}, {"do_sample": False, "repetition_penalty": 1.3}, False),
        ({}, {"do_sample": False}, False),
    ],
)
def test_genai_samples_as_the_author_says(tmp_path, said, search, different):
    job, folder = written(tmp_path, said)
    config = json.loads((folder / "genai_config.json").read_text())
    assert config == genai_config(job, "model.onnx")
    assert config["search"].items() >= search.items()
    assert (len(set(answers(folder))) > 1) == different
    assert search_options(job.tokens)["do_sample"] == bool(said.get("do_sample"))
    assert open_checkpoint(tmp_path / "model").tokenizer.author.settings == job.tokens.generation
