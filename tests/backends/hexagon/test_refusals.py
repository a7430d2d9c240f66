"""What Hexagon cannot take is refused before anything is written; its compiler's words arrive."""

from __future__ import annotations

import dataclasses
import shutil

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifacts import emitted
from hexagon_artifacts import hexagon_job
from slmkit.backend.partition import plan_parts
from slmkit.backend.registry import find_backend
from slmkit.errors import BackendError, RefusedError, SlmkitError
from slmkit.planning.plan import Request, make_plan
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.recipe.scheme import Scheme
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit_onnx.hexagon.options import part_limit_of, read
from slmkit_onnx.hexagon.partition import GRAPH_LIMIT, PART_LIMIT
from slmkit_onnx.hexagon.qnn.compile import compile_part
from slmkit_onnx.hexagon.qnn.provider import compiler_reason
from slmkit_onnx.hexagon.qnn.socs import SOCS

GOOD = Scheme(encoding="group-wise", bits=4, group_size=32, scales="two-level", method="gptq")
BAD = {
    "free": Scheme(encoding="group-wise", bits=4, group_size=32),
    "asymmetric": Scheme(encoding="group-wise", bits=4, group_size=32, symmetric=False),
    "int8 groups": Scheme(encoding="group-wise", bits=8, group_size=32),
    "float16": Scheme(encoding="float16"),
}


def problems(job, schemes=None, **options):
    return find_backend("hexagon").problems(job.model, schemes or job.codes.schemes, options)


@pytest.fixture
def job(tiny, tmp_path):
    return hexagon_job(tiny("llama"), tmp_path)


def test_the_shipped_recipes_have_no_problem(job):
    assert problems(job) == []


@pytest.mark.parametrize("kind", BAD)
def test_schemes_without_an_exact_form_are_named_with_what_would_work(job, kind):
    schemes = {**job.codes.schemes, "model.layers.1.mlp.up_proj": BAD[kind], "lm_head": BAD[kind]}
    (said,) = problems(job, schemes)
    assert "model.layers.1.mlp.up_proj" in said and "lm_head" in said
    assert "use" in said or "give it" in said


def test_a_table_that_is_only_looked_up_may_have_any_scheme(job):
    assert problems(job, {**job.codes.schemes, "model.embed_tokens": BAD["float16"]}) == []


def test_an_op_without_a_form_is_named(job):
    strange = dataclasses.replace(job.model, ops={**job.model.ops, "sort": 2, "fold": 1})
    found = find_backend("hexagon").problems(strange, job.codes.schemes, {})
    assert found == [
        "hexagon has no form of the op fold",
        "hexagon has no form of the op sort",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"soc": ["sm8450"]}, "Hexagon V69"),
        ({"soc": ["sm9999"]}, "no chip 'sm9999'"),
        ({"soc": "sm8650"}, "expected a list of chips"),
        ({"margin": 0.5}, "a number from 1 to 4"),
        ({"range": "best"}, "one of minmax, percentile, mse"),
        ({"part_limit": 10**10}, "at most 2000000000"),
        ({"part_limit": 1000}, "layer 0 has"),
        ({"part_limit": 25_000, "runtime": "genai"}, "in one part"),
        ({"timeout": 0}, "at least 1"),
        ({"tokens": True}, "how many tokens"),
        ({"colour": 1}, "unknown key"),
    ],
)
def test_wrong_options_are_sentences(job, options, said):
    assert any(said in problem for problem in problems(job, **options))


def test_everything_wrong_is_said_at_once_before_anything_is_written(tiny, tmp_path):
    request = Request(
        tiny("llama"),
        "android",
        "float16",
        tmp_path / "out",
        options={"hexagon": {"soc": ["sm8450", "sm8350"]}},
    )
    with pytest.raises(RefusedError) as caught:
        build(request, Silent())
    for said in ("sm8450", "sm8350", "float16 weights", "lm_head"):
        assert said in caught.value.message
    assert "--artifacts" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_the_command_s_chips_go_before_the_recipe_s(tiny, tmp_path):
    request = Request(
        tiny("llama"), "android", "int4", tmp_path, options={"hexagon": {"soc": ["sm8850"]}}
    )
    assert make_plan(request).choice.recipe.options("hexagon")["soc"] == ["sm8850"]
    assert "hexagon" not in load_recipe("int4").artifacts


def test_a_graph_that_the_compiler_refuses_says_why(job, tmp_path):
    folder = tmp_path / "hexagon"
    emitted(job, folder)
    model = onnx.load(str(folder / "decode.onnx"), load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    node.op_type = "Cosh"
    (folder / "decode.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(SlmkitError, match=rf"QNN refused decode\.onnx for sm8650: .*{node.name}"):
        compile_part(folder, tmp_path / "out", "model", SOCS["sm8650"], False, 60)


def test_the_same_graphs_give_the_same_stubs_in_any_folder(job, tmp_path):
    """QNN lays binaries out by the timing of its threads: on a busy machine their bytes differ."""
    emitted(job, tmp_path / "hexagon")
    files = []
    for name in ("a", "another"):
        folder = shutil.copytree(tmp_path / "hexagon", tmp_path / name)
        compile_part(folder, folder / "out", "model", SOCS["sm8650"], True, 300)
        files.append({path.name: path.read_bytes() for path in (folder / "out").iterdir()})
    sizes = [{name: len(content) for name, content in each.items()} for each in files]
    assert sizes[0] == sizes[1] and "prefill_qnn.bin" in sizes[0]
    stubs = [name for name in files[0] if name.endswith(".onnx")]
    assert stubs and all(files[0][name] == files[1][name] for name in stubs)


def test_a_compilation_that_takes_too_long_is_stopped(job, tmp_path):
    folder = tmp_path / "hexagon"
    emitted(job, folder)
    with pytest.raises(BackendError, match=r"took more than 0\.01 s"):
        compile_part(folder, tmp_path / "out", "model", SOCS["sm8650"], False, 0.01)


def test_the_reason_is_the_first_telling_line_of_the_log():
    log = (
        "\x1b[1;33m2026 [W:onnxruntime:, a.cc:1 f] nothing to see\x1b[m\n"
        "\x1b[1;31m2026 [E:onnxruntime:, b.cc:2 g] QNN.backendValidateOpConfig() failed for node "
        "`x` of type `MatMul` with error code 3110\x1b[m\nmore\n"
    )
    assert compiler_reason(log, "said") == (
        "QNN.backendValidateOpConfig() failed for node `x` of type `MatMul` with error code 3110"
    )
    assert compiler_reason("", "said\nand more") == "said"


@pytest.mark.parametrize(
    ("values", "sizes", "limit"),
    [
        ({}, [10**6, 10**6], PART_LIMIT),
        ({}, [10**6, PART_LIMIT + 1], PART_LIMIT),  # a head is apart
        ({}, [PART_LIMIT + 1, 10**6], PART_LIMIT + 1),  # a layer cannot be cut
        ({}, [3 * 10**9, 10**6], GRAPH_LIMIT),
        ({"runtime": "genai"}, [10**6, 10**6], GRAPH_LIMIT),
        ({"part_limit": 1_500_000_000}, [10**6, 10**6], 1_500_000_000),
    ],
)
def test_a_part_is_as_large_as_asked_or_as_compiles_in_little_memory(values, sizes, limit):
    assert part_limit_of(read(values), sizes) == limit


@given(st.lists(st.integers(1, 100), min_size=2, max_size=40), st.integers(100, 500))
def test_parts_hold_every_unit_once_in_order_and_below_the_limit(sizes, limit):
    parts = plan_parts(sizes, limit)
    units = [unit for part in parts for unit in range(part.first, part.last + 1)]
    assert units == list(range(len(sizes)))
    assert all(sum(sizes[part.first : part.last + 1]) <= limit for part in parts)
    if len(parts) > 1:
        assert parts[-1].name == "head" and parts[-1].first == len(sizes) - 1


def test_the_fixture_s_recipe_is_what_the_good_scheme_says():
    assert Recipe.model_validate(load_recipe("int4").model_dump()).weights[0].scheme == GOOD


def test_a_chip_without_float16_needs_a_residual_stream_of_integers(tiny, tmp_path):
    job = hexagon_job(tiny("llama"), tmp_path)
    (reason,) = problems(job, soc=["sm8635"])
    assert "no float16" in reason and "artifacts.hexagon.residual: int16" in reason
    assert problems(job, soc=["sm8635"], residual="int16") == []


def test_a_scan_is_refused_on_a_chip_without_float16(tiny, tmp_path):
    job = hexagon_job(tiny("mamba"), tmp_path)
    (reason,) = problems(job, soc=["sm8735"], residual="int16")
    assert "a scan's state is float16" in reason
