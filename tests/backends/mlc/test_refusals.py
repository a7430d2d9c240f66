"""What mlc cannot do is said before anything is written; and mlc_llm's compiler, where it is."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from artifacts import emitted, reference_of, snr_db
from mlc_artifacts import mlc_job, run_machine
from slmkit.backend.registry import find_backend
from slmkit.errors import BackendError
from slmkit.recipe.scheme import Scheme
from slmkit_mlc import writer
from slmkit_mlc.compiler.mlc_llm import compile_with_mlc_llm
from slmkit_mlc.gpus import known_gpus
from slmkit_mlc.verify import metal

STAND_IN = """
import json, pathlib, sys
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--output") + 1])
if "fail" in out.name:
    sys.exit("RuntimeError: cannot compile this")
out.write_text(json.dumps(words))
"""


@pytest.fixture
def mlc_llm(tmp_path, monkeypatch):
    """A package of that name that writes down what it is asked for: the real one is on no index,
    and does not run beside this TVM."""
    package = tmp_path / "site" / "mlc_llm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def test_what_mlc_cannot_take_is_named(tiny, tmp_path):
    job = mlc_job(tiny("llama"), tmp_path)
    palette = Scheme(encoding="palette", bits=4, group_rows=16)
    schemes = {**job.codes.schemes, "model.layers.0.mlp.down_proj": palette}
    windows = replace(job.spec, windows=(16, 32), head_width=512)
    model = replace(job.model, spec=windows)
    options = {"colour": 1, "gpus": ["none"], "compiler": "gcc"}
    found = find_backend("mlc").problems(model, schemes, options)
    for words in (
        "unknown key",
        "a list of adreno",
        "one of slmkit",
        "palettes",
        "1 sliding",
        "256 wide",
    ):
        assert any(words in each for each in found), words
    assert len(found) == 6


def test_mlc_llm_is_refused_where_it_is_not_or_cannot_take_the_weights(tiny, tmp_path):
    job = mlc_job(tiny("llama"), tmp_path)
    found = find_backend("mlc").problems(job.model, job.codes.schemes, {"compiler": "mlc_llm"})
    assert len(found) == 2
    assert "not installed" in found[0]
    assert "int4-compact or float16" in found[1]


@pytest.mark.usefixtures("mlc_llm")
def test_mlc_llm_compiles_the_same_parameters(tiny, tmp_path):
    """Parity then runs our program on the parameters, and claims nothing of mlc_llm's kernels."""
    job = mlc_job(tiny("llama"), tmp_path, "int4-g32")
    job = replace(job, options={"compiler": "mlc_llm", "gpus": ["adreno"]})
    assert find_backend("mlc").problems(job.model, job.codes.schemes, job.options) == []
    artifact = emitted(job, tmp_path / "mlc")
    assert [mode.name for mode in artifact.modes] == ["float32", "float16"]
    assert any(writer.BY_MLC_LLM in why for why in artifact.report.not_executed)
    library = artifact.facts["libraries"]["adreno"]
    asked = (tmp_path / "mlc" / library["file"]).read_text()
    for word in ("mlc-chat-config.json", "android:adreno", "q4f16_0", library["prefix"]):
        assert word in asked


@pytest.mark.usefixtures("mlc_llm")
def test_mlc_llm_s_failure_is_a_sentence(tmp_path):
    with pytest.raises(BackendError, match=r"mlc_llm compile failed .* cannot compile this"):
        compile_with_mlc_llm(
            Path("c.json"), known_gpus()["apple"], "a", "q4f16_1", tmp_path / "fail.tar"
        )


def test_a_recipe_may_leave_a_gpu_out(tiny, tmp_path):
    from slmkit_mlc.options import chosen_gpus

    job = mlc_job(tiny("llama"), tmp_path, options={"gpus": ["mali"]})
    assert [gpu.name for gpu in chosen_gpus(job)] == ["mali"]


def test_without_a_runtime_the_report_says_what_was_not_executed(monkeypatch):
    monkeypatch.setattr(writer, "runtime", lambda: None)
    android, apple = [known_gpus()["adreno"]], [known_gpus()["apple"]]
    assert writer._not_executed(android) == [writer.NO_OPENCL]
    assert [mode.name for mode in writer.modes_of(android, "float16")] == ["float32", "float16"]
    if not metal.metal_present():
        assert writer._not_executed(apple) == [writer.NO_OPENCL, writer.NO_METAL]


@pytest.mark.skipif(
    not metal.metal_present(),
    reason=f"TVM's Metal runtime on a Mac's GPU; this is {sys.platform}",
)
def test_the_program_runs_on_a_mac_s_gpu(tiny, tmp_path):
    from slmkit_mlc.lowering.definition import definition_for
    from slmkit_mlc.verify.metal import metal_machine

    job = mlc_job(tiny("qwen2"), tmp_path, target="ios")
    definition = definition_for(job)
    writer.write_params(definition, job, tmp_path / "params")
    machine = metal_machine(definition, known_gpus()["apple"], tmp_path / "params")
    assert snr_db(reference_of(job), run_machine(machine, job)) > 45
