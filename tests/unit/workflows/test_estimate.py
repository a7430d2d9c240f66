"""Plans from config.json alone: files, cuts, memory, refusals."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

from phone_shapes import write_shape
from slmkit.cli.main import main
from slmkit.errors import SlmkitError
from slmkit.planning.plan import Request, make_plan
from slmkit.recipe.recipe import load_recipe
from slmkit.workflows.estimate import estimate
from slmkit_coreml.contract import CHUNK_LIMIT
from slmkit_onnx.hexagon.partition import PART_LIMIT
from tiny_models import tiny_config, write_checkpoint

GB = 10**9


def of(folder, name: str, target: str, **more):
    return estimate(Request(write_shape(folder, name), target, "int4", **more))


def by_name(found):
    return {each.artifact: each for each in found.artifacts}


def plan(*words, expect=0):
    result = CliRunner().invoke(main, ["plan", *map(str, words)])
    assert result.exit_code == expect, result.output + result.stderr
    return result


def test_a_folder_a_file_and_a_whole_checkpoint_have_one_plan(tiny, tmp_path):
    whole = tiny("qwen2")
    alone = tmp_path / "alone" / whole.name
    alone.mkdir(parents=True)
    shutil.copyfile(whole / "config.json", alone / "config.json")
    words = ("--target", "android", "--context", 128, "--json", "--model")
    plans = [plan(*words, path).stdout for path in (whole, alone, alone / "config.json")]
    assert len(set(plans)) == 1
    found = json.loads(plans[0])
    assert found["name"] == whole.name and found["context_length"] == 128
    assert [each["artifact"] for each in found["artifacts"]] == ["ort", "hexagon", "litert", "mlc"]


def test_the_memory_is_that_of_the_build(tiny, tmp_path):
    request = Request(tiny("llama"), "android", "int4", tmp_path / "out")
    expected = make_plan(request).memory
    assert {each.artifact: each.memory for each in estimate(request).artifacts} == expected


def test_packages_and_parts_keep_their_limits(tmp_path):
    packages = by_name(of(tmp_path, "qwen2.5-3b", "ios"))["coreml"].files
    assert [file.name for file in packages] == [f"model_{at}.mlpackage" for at in (1, 2, 3, 4)]
    assert [file.about for file in packages] == [
        "layers 0 to 11",
        "layers 12 to 23",
        "layers 24 to 35",
        "the head",
    ]
    assert all(file.size <= CHUNK_LIMIT for file in packages)
    large = of(
        tmp_path,
        "qwen1.5-moe-a2.7b",
        "android",
        memory_limit=30 * GB,
        options={"hexagon": {"soc": ["sm8650"]}},
    )
    binaries = by_name(large)["hexagon"].files[2:]
    assert len(binaries) == 25 and binaries[-1].about == "the head, for sm8650"
    assert all(file.size > PART_LIMIT for file in binaries[:-1])  # a layer each: none is cut


def test_what_refuses_is_said_as_a_build_says_it(tmp_path):
    """Heads too wide for mlc's kernels; the others have their files."""
    model = write_checkpoint(tmp_path / "model", tiny_config("llama", head_dim=512))
    request = Request(model, "android", "int4", tmp_path / "out")
    found = by_name(estimate(request))
    assert [name for name, each in found.items() if each.refused] == ["mlc"]
    assert [name for name, each in found.items() if not each.files] == ["mlc"]
    with pytest.raises(SlmkitError) as caught:
        make_plan(request)
    assert found["mlc"].refused[0] in caught.value.message


def test_an_artifact_that_no_target_has_is_refused(tiny, tmp_path):
    recipe = json.loads(load_recipe("int4").model_dump_json())
    path = tmp_path / "wrong.yaml"
    path.write_text(json.dumps({**recipe, "artifacts": {"abacus": {}}}), encoding="utf-8")
    failed = plan("--target", "android", "--model", tiny("llama"), "--recipe", path, expect=1)
    assert "artifacts.abacus: there is no such artifact" in failed.stderr


def test_a_model_that_does_not_fit_is_shown_and_refused_with_what_would(tmp_path):
    model = write_shape(tmp_path, "qwen2.5-3b")
    words = ("--target", "ios", "--model", model, "--memory-limit", 2.17)
    failed = plan(*words, expect=4)
    assert "model_1.mlpackage" in failed.stdout and "refused" in failed.stdout
    assert "coreml: the model needs 2.1" in failed.stderr
    assert "would fit: --recipe int4 --context 1024" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("hint: ")


def test_the_table_adds_up_the_pieces_of_one_thing(tmp_path):
    said = plan("--target", "ios", "--model", write_shape(tmp_path, "qwen2.5-0.5b")).stdout
    assert "params/params_shard_0.bin and 7 more" in said
    assert "layers 0 to 23 and the head" in said
    assert "fits" in said and "refused" not in said
