"""Commands as a user meets them: output, exit codes, errors in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from command_line import slmkit
from harness_tasks import write_tasks
from slmkit.backend import registry
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.cli.main import main
from slmkit.inference.evaluate import HELD_OUT, read_examples
from slmkit.parity.golden import outputs_of

HEAVY = (
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime_genai",
    "tokenizers",
    "pydantic",
    "rich",
    "jinja2",
    "yaml",
    "torch",
    "transformers",
)


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from slmkit.cli.main import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print([name for name in {HEAVY} if name in sys.modules])"
    )
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.stdout.strip().endswith("[]")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """What `slmkit build --json` says of the sample model's smallest bundle."""
    out = tmp_path_factory.mktemp("built")
    words = ("build", "--target", "android", "--recipe", "int8", "--artifacts", "ort")
    return json.loads(slmkit(*words, "--no-cache", "--out", out, "--json").stdout)


def test_build_run_parity_inspect_verify(built):
    assert built["passed"]
    bundle = built["bundle"]
    checked = json.loads(slmkit("parity", bundle, "--json").stdout)
    assert [line["metrics"] for line in checked["comparisons"]] == [
        line["metrics"] for line in built["comparisons"] if line["error"] != "quantization"
    ]
    assert [line["error"] for line in checked["recorded"]] == ["quantization"]
    asked = read_examples(HELD_OUT)[0]
    assert slmkit("run", bundle, "--prompt", asked.prompt).stdout == f"{asked.answer}\n"
    assert slmkit("run", bundle, "--prompt", "hi", "--temperature", 1, "--seed", 3).stdout
    assert "home" in slmkit("inspect", bundle).stdout
    assert "are what the manifest says" in slmkit("verify", bundle).stdout
    verified = json.loads(slmkit("verify", bundle, "--json").stdout)
    assert verified["bundle"] == bundle and verified["bytes"] == built["bytes"]
    table = slmkit("parity", bundle).stdout
    assert "lowering" in table and "recorded at build" in table


def test_verify_tells_json_of_each_wrong_file(built, tmp_path):
    bundle = shutil.copytree(built["bundle"], tmp_path / "bundle")
    (bundle / "USE.md").unlink()
    (bundle / "more.txt").write_text("more")
    found = json.loads(slmkit("verify", bundle, "--json", expect=1).stdout)
    assert {each["path"]: each["why"] for each in found["wrong"]} == {
        "USE.md": "is missing",
        "more.txt": "is not in the manifest",
    }
    assert found["error"]["kind"] == "BundleError"


def test_a_failed_parity_is_exit_code_3_with_its_table(built, monkeypatch):
    monkeypatch.setattr("slmkit.parity.metrics.broken", lambda metrics, bound: ("it is wrong",))
    failed = slmkit("parity", built["bundle"], expect=3)
    assert "FAIL" in failed.stdout
    assert failed.stderr.splitlines()[-2].startswith("Error: parity failed: ort exact: it is wrong")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_logit_that_is_not_finite_fails_parity_and_leaves_its_json_strict(
    built, monkeypatch, bad
):
    def planted(logits, columns=None):
        if len(logits) > 1:  # golden prompts
            logits[-1] = np.array(logits[-1])
            logits[-1][7, 5] = bad  # of the last prompt, which is of random ids
        return outputs_of(logits, columns)

    monkeypatch.setattr("slmkit.parity.proof.outputs_of", planted)
    said = slmkit("parity", built["bundle"], "--json", expect=3).stdout
    found = json.loads(said, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    lowering, whole, shipped = found["comparisons"]
    assert whole["mode"] == "exact, long" and not whole["failures"]
    assert (lowering["error"], lowering["metrics"]["kl"]) == ("lowering", None)
    assert (shipped["error"], shipped["metrics"]["kl"] >= 0) == ("shipped", True)
    for line in (lowering, shipped):
        assert line["failures"][0].startswith("the logits hold NaN or infinity at 1 of ")
        assert line["failures"][0].endswith("the first at position 7 of golden prompt 11")
    shown = slmkit("parity", built["bundle"], expect=3).stdout
    assert "NaN" in shown and shown.count("FAIL") == 2


def test_a_build_says_the_recipe_s_price(built):
    quality = built["quality"]
    assert quality["trained"] and [line["artifact"] for line in quality["lines"]] == ["all", "ort"]
    assert "small: KL " in slmkit("inspect", built["bundle"]).stdout
    assert slmkit("parity", built["bundle"]).stdout.count("small") == 1  # the recorded line's


def test_codes_that_are_refused_are_reported_without_a_table_of_artifacts(tmp_path):
    recipe = {
        "extends": "int4",
        "name": "strict",
        "summary": "Less than int4 can do.",
        "parity": {"quantization": {"max_kl": 0.0001}},
    }
    (tmp_path / "strict.yaml").write_text(json.dumps(recipe))
    words = ("build", "--target", "android", "--artifacts", "ort", "--out", tmp_path / "out")
    failed = slmkit(*words, "--recipe", tmp_path / "strict.yaml", expect=3)
    assert "held-out text" in failed.stdout and "FAIL" in failed.stdout
    assert "lowering" not in failed.stdout
    assert "all codes: KL" in failed.stderr and "choose a finer recipe" in failed.stderr


def test_eval_measures_an_artifact_on_a_text(built):
    words = ("eval", built["bundle"], "--task", "text", "--data", HELD_OUT)
    small = ("--tokens", 200, "--window", 64)
    found = json.loads(slmkit(*words, *small, "--json").stdout)["divergence"]
    assert 100 < found["positions"] <= 250 and found["columns"] == 1024
    assert 0 < found["kl"] < 0.01 and found["top1"] > 0.95
    assert found["perplexity"] == pytest.approx(found["float_perplexity"], rel=0.05)
    shown = slmkit(*words, *small).stdout
    assert "perplexity" in shown and "same best token" in shown and "p = " in shown


def test_eval_compares_answers_with_the_float_model_s(built):
    words = ("eval", built["bundle"], "--limit", 2, "--model", SAMPLE_MODEL)
    found = json.loads(slmkit(*words, "--json").stdout)
    assert found["items"] == found["float_score"]["items"] and found["flips"]["lost"] == 0
    assert "the float model has 2/2 right" in slmkit(*words).stdout


def test_eval_of_a_bundle_wants_its_own_checkpoint(built, tiny):
    words = ("eval", built["bundle"], "--task", "text")
    assert "is not the checkpoint" in slmkit(*words, "--model", tiny(), expect=1).stderr
    assert "has its recipe" in slmkit(*words, "--recipe", "int4", expect=2).stderr


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("qwen2-moe", "2 of 4 experts of feed-forward 32, and one of 64 for every token"),
        ("mamba2", "128 channels in 8 heads, state 8, convolution over 4 tokens"),
        ("gemma3", "4 query, 1 kv, width 32"),
        ("smollm3", "4 query, 2 kv, width 16, no positions in layer"),
        ("granite-hybrid", "4 query, 2 kv, width 16, no positions (layer 1)"),
        ("granite-hybrid-moe", "2 of 4 experts of feed-forward 32, and one of 96 for every token"),
        ("lfm2", "over 3 tokens, gated (layers 0, 2)"),
        ("lfm2", "4 query, 2 kv, width 16 (layer 1)"),
    ],
)
def test_inspect_tells_what_a_family_is_made_of(tiny, family, words):
    folder = tiny(family)
    assert words in slmkit("inspect", folder).stdout
    assert json.loads(slmkit("inspect", folder, "--json").stdout)["spec"]["layers"] >= 2


def test_inspect_tells_a_checkpoint_s_numbers():
    found = json.loads(slmkit("inspect", SAMPLE_MODEL, "--json").stdout)
    assert found["parameters"] == 2_164_800
    assert found["spec"]["heads"] == 6
    assert {"int4", "int8", "float16"} <= set(found["plans"])
    assert "2,164,800" in slmkit("inspect", SAMPLE_MODEL).stdout


def test_lists_are_tables_or_json():
    names = [each["name"] for each in json.loads(slmkit("recipes", "--json").stdout)]
    assert {"int4", "int8", "float16"} <= set(names)
    assert "two-level" in slmkit("recipes", "show", "int4").stdout
    assert "int4" in slmkit("recipes").stdout
    assert "ort" in slmkit("targets").stdout
    assert json.loads(slmkit("targets", "--json").stdout)[0]["name"] == "android"
    assert "onnxruntime" in slmkit("doctor").stdout
    assert json.loads(slmkit("doctor", "--json").stdout)["extras"][0]["extra"] == "ort"


def test_doctor_gives_the_command_for_what_is_missing(monkeypatch, from_index):
    monkeypatch.setattr("slmkit.backend.registry._version", lambda name: None)
    assert 'pip install "slmkit[ort]"' in slmkit("doctor").stdout


@pytest.mark.parametrize("model", ["nowhere", "nobody/nothing", "nowhere.gguf"])
def test_missing_packages_are_one_sentence_with_the_command(
    model, tmp_path, monkeypatch, from_index
):
    """Before a model is looked for, or fetched."""
    monkeypatch.setattr("slmkit.backend.registry._version", lambda name: None)
    words = ("build", "--target", "android", "--model", model, "--out", tmp_path)
    failed = slmkit(*words, expect=5)
    gguf = model.endswith(".gguf")
    assert failed.stderr.splitlines() == [
        "Error: the artifact ort needs onnx, onnxruntime; "
        "the artifact hexagon needs onnx, onnxruntime, onnxruntime-qnn; "
        "the artifact litert needs tensorflow-cpu, ai-edge-litert, litert-lm-builder; "
        "the artifact mlc needs apache-tvm, apache-tvm-ffi"
        + ("; a GGUF file needs gguf" if gguf else ""),
        f'hint: pip install "slmkit[ort,hexagon,litert,mlc{",gguf" if gguf else ""}]"',
    ]


WRONG = [
    (1, ("build", "--target", "android", "--model", "nowhere")),
    (2, ("build", "--target", "ios", "--artifacts", "ort")),
    (4, ("build", "--target", "android", "--soc", "sm8450")),
    (1, ("build", "--target", "android", "--calibration", "nowhere")),
    (2, ("build", "--target", "ios", "--option", "ort.accuracy_level=4")),
    (4, ("build", "--target", "android", "--option", "ort.accuracy_level=7")),
    (1, ("parity", "nowhere")),
    (1, ("run", "nowhere", "--prompt", "hi")),
    (1, ("eval", "nowhere")),
    (1, ("eval", SAMPLE_MODEL, "--data", "nowhere")),
    (1, ("eval", SAMPLE_MODEL, "--task", "text", "--data", "nowhere")),
    (1, ("eval", SAMPLE_MODEL, "--task", "text", "--recipe", "nowhere")),
    (2, ("eval", SAMPLE_MODEL, "--task", "text", "--limit", "3")),
    (2, ("eval", SAMPLE_MODEL, "--window", "3")),
    (2, ("eval", SAMPLE_MODEL, "--task", "text", "--artifact", "ort")),
    (1, ("inspect", "nowhere")),
    (1, ("plan", "--target", "android", "--model", "nowhere")),
    (2, ("plan", "--target", "ios", "--artifacts", "ort")),
    (4, ("plan", "--target", "android", "--memory-limit", 0.001)),
    (1, ("verify", "nowhere")),
    (1, ("recipes", "show", "nowhere")),
    (1, ("run", SAMPLE_MODEL, "--prompt", "x" * 3000)),
    *((2, ("plan", "--target", "ios", "--memory-limit", bad)) for bad in ("0", "-1", "nan", "inf")),
    *((2, ("run", SAMPLE_MODEL, "--prompt", "hi", "--temperature", bad)) for bad in ("nan", "inf")),
    (2, ("run", SAMPLE_MODEL, "--prompt", "hi", "--top-p", "nan")),
    (2, ("plan", "--target", "android", "--artifacts", "ort,ort")),
    (1, ("run", SAMPLE_MODEL, "--prompt", "hi\udcff")),  # as Python reads bytes that are no UTF-8
]


@pytest.mark.parametrize(("code", "words"), WRONG)
def test_bad_input_has_its_exit_code_and_a_hint(code, words):
    failed = slmkit(*words, expect=code)
    lines = failed.stderr.strip().splitlines()
    assert lines[-2].startswith("Error: ") and lines[-1].startswith("hint: ")
    assert "Traceback" not in failed.output


def test_a_value_that_is_no_yaml_is_a_bad_command_line():
    failed = slmkit("plan", "--target", "android", "--option", "ort.x=2024-13-45", expect=2)
    assert "is no YAML value" in failed.stderr


def test_the_sample_model_s_questions_are_for_it_alone(tiny):
    failed = slmkit("eval", tiny(), expect=2)
    assert "the default questions are those of the sample model" in failed.stderr
    assert "--data" in failed.stderr


@pytest.mark.parametrize("text", ['{"prompt": "\\ud83d", "answer": "x"}', '{"answer": "\\ud83d"}'])
def test_half_of_a_character_in_questions_is_named_by_its_line(tmp_path, text):
    (tmp_path / "data.jsonl").write_text(f"{text}\n")
    failed = slmkit("eval", SAMPLE_MODEL, "--data", tmp_path / "data.jsonl", expect=1)
    assert "line 1, is not an example" in failed.stderr


def piped(*words, **more):
    """slmkit in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "slmkit", *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def test_a_reader_that_has_gone_is_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    done = piped("recipes", "show", "int4", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_stdout_that_was_closed_is_no_traceback():
    done = piped("recipes", "show", "int4", preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


def test_doctor_s_commands_are_never_cut(monkeypatch, from_index):
    monkeypatch.setattr("slmkit.backend.registry._version", lambda name: None)
    monkeypatch.setattr("slmkit.cli.console.PLAIN_WIDTH", 40)
    lines = slmkit("doctor").stdout.splitlines()
    assert 'pip install "slmkit[litert]"' in lines


JSON_COMMANDS = ("build", "parity", "eval", "inspect", "plan")


@pytest.mark.parametrize(("code", "words"), [each for each in WRONG if each[1][0] in JSON_COMMANDS])
def test_under_json_an_error_is_json(code, words):
    failed = slmkit(*words, "--json", expect=code)
    error = json.loads(failed.stdout)["error"]
    assert error["exit_code"] == code
    assert error["message"] and error["hint"] and error["kind"].endswith("Error")


@pytest.mark.parametrize("words", [("build",), ("biuld",), ("plan", "--nonsense")])
def test_under_json_a_bad_command_line_is_json(words):
    error = json.loads(slmkit(*words, "--json", expect=2).stdout)["error"]
    assert (error["exit_code"], error["kind"]) == (2, "UsageError")


def test_under_json_a_failed_parity_is_one_document(tmp_path, monkeypatch):
    out = ("--artifacts", "ort", "--out", tmp_path, "--json")
    words = ("build", "--target", "android", *out)
    monkeypatch.setattr("slmkit.parity.metrics.broken", lambda metrics, bound: ("it is wrong",))
    found = json.loads(slmkit(*words, expect=3).stdout)
    assert found["passed"] is False and found["error"]["kind"] == "FailedParity"
    assert found["comparisons"][0]["failures"] == ["it is wrong"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "memory is full"),
    ],
)
def test_a_full_disk_or_memory_is_one_sentence(tmp_path, monkeypatch, error, said):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("slmkit.planning.codes.quantize", fail)
    failed = slmkit("build", "--target=android", "--out", tmp_path, expect=1)
    assert said in failed.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("build",), ("biuld",), ("run", SAMPLE_MODEL), ("parity",)])
def test_a_bad_command_line_is_exit_code_2(words):
    slmkit(*words, expect=2)


def test_every_option_has_a_line_of_help():
    for name, command in main.commands.items():
        assert command.help, name
        for option in command.params:
            if option.param_type_name == "option":
                assert option.help, f"{name} {option.opts}"


def test_every_artifact_of_a_target_has_a_backend():
    for target in registry.targets().values():
        assert registry.artifacts_of(target)


def test_options_of_another_task_are_refused():
    for task, option in (("text", "--few-shot"), ("lights", "--window"), ("text", "--limit")):
        result = slmkit("eval", SAMPLE_MODEL, "--task", task, option, 3, expect=2)
        assert f"Error: {option} is for --task" in result.stderr


def test_tasks_of_the_harness_are_a_table_or_json(tmp_path):
    pytest.importorskip("lm_eval", reason='lm-eval is not installed: pip install ".[eval]"')
    folder = write_tasks(tmp_path)
    words = ("eval", SAMPLE_MODEL, "--task", "pick,read", "--tasks-folder", folder, "--limit", 2)
    table = slmkit(*words).stdout
    assert "acc_norm" in table and "word_perplexity" in table
    assert "lm-evaluation-harness" in table
    found = json.loads(slmkit(*words, "--json").stdout)
    assert {each["task"] for each in found["scores"]} == {"pick", "read"}
    assert {each["samples"] for each in found["scores"]} == {2}
    assert len(found["right"]["pick: acc"]) == 2


def test_compare_is_a_table_or_json_and_refuses_options_without_tasks(built):
    words = ("compare", built["bundle"], SAMPLE_MODEL, "--tokens", 60, "--no-cache")
    table = slmkit(*words).stdout
    for row in ("on disk", "memory of an app", "decode, tokens/s", "KL, mean", "next tokens:"):
        assert row in table
    found = json.loads(slmkit(*words, "--json").stdout)
    assert found["second"]["divergence"]["kl"] == 0
    assert found["first"]["decode"] > 0 and found["second"]["decode"] is None
    result = slmkit(*words, "--few-shot", 2, expect=2)
    assert "are for tasks" in result.stderr
