"""The forecast of speed on phones: its arithmetic, its error bar, and what it refuses to tell."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from phone_shapes import spec_of, write_shape
from slmkit.cli.main import main
from slmkit.errors import UsageError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.planning.forecast import Work, forecast, work_of
from slmkit.planning.memory import plan_memory, weight_sizes
from slmkit.planning.plan import costs_of
from slmkit.planning.public_speeds import FILE, PublicSpeeds, public_speeds
from slmkit.planning.speed_fit import (
    DECODE,
    PREFILL,
    WORST,
    Speed,
    accuracy,
    errors_of,
    milliseconds,
    speed_text,
)
from slmkit.recipe.recipe import load_recipe
from tiny_models import tiny_config

AIM = 0.25  # the median error that decoding is to keep
ROOT = Path(__file__).resolve().parents[3]
QWEN = "qwen2.5-0.5b"


def figures_like(overhead, share, chips=(50.0, 80.0), noise=(), sources=4):
    """Figures of a world in which a token takes ``overhead`` ms and reads at ``share``."""
    values = json.loads(FILE.read_text(encoding="utf-8"))
    shown = {**values["chips"][0], "compute": {}}
    values["chips"] = [
        {**shown, "id": f"chip {bandwidth}", "bandwidth": bandwidth} for bandwidth in chips
    ]
    values["phones"] = [{**values["phones"][0], "chip": values["chips"][-1]["id"], "shown": True}]
    names = list(values["sources"])[:sources]
    row = {**values["measurements"][0], "prefill": None, "body": None, "prompt": None}
    rows: list[dict[str, object]] = []
    for at, read in enumerate((300, 600, 900, 1500, 2500, 4000)):
        for chip in values["chips"]:
            time = overhead + read / chip["bandwidth"] / share
            off = noise[len(rows) % len(noise)] if noise else 1
            name = names[at % len(names)]
            new = {"read": read, "chip": chip["id"], "decode": off * 1000 / time, "source": name}
            rows.append({**row, **new})
    values["measurements"] = rows
    return PublicSpeeds.model_validate(values)


def on(figures, read, memory=10**9):
    found = forecast({"ort": ("cpu", Work(read, 1e9), memory)}, "android", None, figures)
    return found.phones[0]


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 8), st.floats(0.3, 0.9), st.floats(250e6, 4000e6))
def test_where_speeds_follow_the_line_it_is_found(overhead, share, read):
    found = on(figures_like(overhead, share), read).decode
    assert found is not None
    actual = 1000 / (overhead + read / 80e6 / share)
    assert found.value == pytest.approx(actual, rel=0.06)  # the grid's steps
    assert found.low <= found.value <= found.high


def test_the_error_bar_is_that_of_the_figures():
    quiet = accuracy(figures_like(3, 0.6), DECODE, "cpu")
    loud = accuracy(figures_like(3, 0.6, noise=(0.6, 1.0, 1.7)), DECODE, "cpu")
    assert quiet.factor is not None and loud.factor is not None
    assert quiet.factor < 1.06 < 1.4 < loud.factor
    assert quiet.rows == loud.rows == 12


def test_a_row_does_not_see_itself_and_a_source_not_its_own():
    figures = figures_like(3, 0.6)
    rows = list(figures.measurements)
    liar = rows[0].model_copy(update={"decode": rows[0].decode * 5})
    twice = figures.model_copy(update={"measurements": (liar, *rows[1:])})
    first = errors_of(twice, DECODE, "cpu")[0]
    assert first.by_row == pytest.approx(rows[0].decode, rel=0.06)
    assert first.row_error == pytest.approx(0.8, abs=0.02)
    own = rows[1].model_copy(update={"decode": rows[1].decode * 5})  # of the same source
    both = figures.model_copy(update={"measurements": (liar, own, *rows[2:])})
    found = errors_of(both, DECODE, "cpu")[0]
    assert rows[0].source == rows[1].source and found.by_source == first.by_source


def test_figures_that_contradict_each_other_give_no_forecast():
    figures = figures_like(3, 0.6, noise=(0.1, 0.1, 3.0, 3.0))
    assert not accuracy(figures, DECODE, "cpu").usable
    found = on(figures, 1000e6)
    assert found.decode is None and not found.outside
    alone = accuracy(figures_like(3, 0.6, sources=2), DECODE, "cpu")
    assert not alone.usable and "2 sources only" in alone.why_not


@pytest.mark.parametrize("read", [3e6, 60e9])
def test_nothing_is_told_far_from_every_measurement(read):
    found = on(figures_like(3, 0.6), read)
    assert found.decode is None and found.outside


def test_an_app_that_needs_more_than_it_may_use_does_not_fit():
    figures = figures_like(3, 0.6)
    phone = figures.phones[0]
    room = figures.app_memory(phone)
    assert room == phone.ram * 10**9 * figures.app_share["android"].share
    assert on(figures, 1e9, room).fits and not on(figures, 1e9, room + 1).fits


@pytest.mark.parametrize("processor", ["cpu", "gpu", "npu"])
def test_decoding_keeps_the_aim_on_the_public_figures(processor):
    good = accuracy(public_speeds(), DECODE, processor)
    assert good.by_row is not None and good.by_row < AIM
    assert good.by_source is not None and good.by_source < AIM


def test_prompts_are_forecast_where_figures_agree():
    known = {each: accuracy(public_speeds(), PREFILL, each) for each in ("cpu", "gpu", "npu")}
    assert {name: each.usable for name, each in known.items()} == {
        "cpu": True,
        "gpu": False,
        "npu": True,
    }
    assert all((each.by_source or 1) <= WORST for each in known.values() if each.usable)


def test_the_bytes_of_a_token_are_those_of_the_weights_but_a_table_of_its_own():
    model, recipe = summarize(spec_of(QWEN)), load_recipe("int4")
    costs = costs_of("ort", recipe)
    sizes = weight_sizes(model, recipe, costs)
    assert sum(sizes.values()) == plan_memory(model, recipe, 512, costs).weights
    assert work_of(model, recipe, costs).read == sum(sizes.values())  # tied: the head is read
    body = model.parameters - model.vector_numbers - 151936 * 896
    assert work_of(model, recipe, costs).body == body
    untied = summarize(read_spec(Config(tiny_config("llama", tie_word_embeddings=False), "c")))
    sizes = weight_sizes(untied, recipe, costs)
    table = sizes["model.embed_tokens.weight"]
    assert work_of(untied, recipe, costs).read == sum(sizes.values()) - table


def test_a_token_reads_one_of_several_copies():
    """LiteRT maps the file, and XNNPACK packs another copy: only that one is read."""
    model, recipe = summarize(spec_of(QWEN)), load_recipe("int4")
    reads = {
        name: work_of(model, recipe, costs_of(name, recipe)).read for name in ("ort", "litert")
    }
    assert costs_of("litert", recipe).copies == 2
    assert reads["litert"] == pytest.approx(reads["ort"], rel=0.2)  # the same codes
    assert (
        reads["litert"] < 0.6 * plan_memory(model, recipe, 512, costs_of("litert", recipe)).weights
    )


def test_of_experts_those_that_are_chosen_are_read():
    model = summarize(read_spec(Config(tiny_config("qwen2-moe"), "config.json")))
    recipe, moe = load_recipe("int4"), model.spec.moe
    costs = costs_of("ort", recipe)
    assert moe is not None and moe.routing.chosen < moe.experts
    names = {
        name
        for layer in model.moe_layers
        for expert in layer
        for name in (*expert.gate_up, expert.down)
    }
    sizes = weight_sizes(model, recipe, costs)
    routed = sum(sizes[tensor] for tensor, each in model.weights.items() if each.name in names)
    idle = model.looked_up - model.multiplied
    table = sum(sizes[tensor] for tensor, each in model.weights.items() if each.name in idle)
    rest = sum(sizes.values()) - routed - table
    read = work_of(model, recipe, costs).read
    assert read == pytest.approx(rest + routed * moe.routing.chosen / moe.experts)


def test_every_figure_has_its_source():
    figures = public_speeds()
    assert all(each.url.startswith("https://") and each.title for each in figures.sources.values())
    for chip in figures.chips:
        assert bool(chip.compute) == bool(chip.compute_source) == bool(chip.compute_from)
    for row in figures.measurements:
        assert (row.prefill is None) == (row.body is None)
        bound = 1000 / milliseconds(row.bytes_read, figures.chip(row.chip).bandwidth)
        assert row.decode < bound, row  # nothing reads faster than the memory


@pytest.mark.parametrize(
    "change",
    [
        {"phones": [{"name": "a", "chip": "no", "target": "ios", "ram": 8, "shown": True}]},
        {"app_share": {}},
        {"sources": {}},
    ],
)
def test_a_file_with_unknown_names_is_refused(change):
    values = json.loads(FILE.read_text(encoding="utf-8"))
    with pytest.raises(ValidationError):
        PublicSpeeds.model_validate({**values, **change})


def test_phones_are_chosen_by_name_and_an_unknown_one_is_refused():
    figures = public_speeds()
    assert all(phone.shown for phone in figures.phones_of("ios"))
    every = figures.phones_of("ios", ("all",))
    assert len(every) > len(figures.phones_of("ios"))
    assert [each.name for each in figures.phones_of("ios", ("iphone 16 pro",))] == ["iPhone 16 Pro"]
    with pytest.raises(UsageError, match="'OnePlus 12' for ios") as caught:
        figures.phones_of("ios", ("OnePlus 12",))
    assert "iPhone 17 Pro" in caught.value.hint
    assert figures.phones_of("abacus") == []


def test_speeds_are_shown_with_two_digits():
    assert speed_text(Speed(123.4, 81.26, 187.3)) == "120 (81-190)"
    assert speed_text(Speed(4123, 2500.0, 7300.0)) == "4100 (2500-7300)"
    assert speed_text(None) == "-"


def plan(*words, expect=0):
    result = CliRunner().invoke(main, ["plan", *map(str, words)])
    assert result.exit_code == expect, result.output + result.stderr
    return result


def test_plan_prints_the_forecast_and_its_errors(tmp_path):
    model = write_shape(tmp_path, QWEN)
    words = ["--target", "android", "--artifacts", "ort,mlc", "--model", model]
    words += ["--phones", "OnePlus 12, galaxy s25"]
    said = plan(*words).stdout
    assert "forecast, not measured" in said and "OnePlus 12" in said
    assert "median error" in said and "no forecast" in said  # of prompts on GPUs
    found = json.loads(plan(*words, "--json").stdout)["forecast"]
    assert {each["phone"] for each in found["phones"]} == {"OnePlus 12", "Galaxy S25"}
    good = accuracy(public_speeds(), DECODE, "cpu")
    told = next(each for each in found["accuracy"] if each["processor"] == "cpu")
    assert told["by_row"] == good.by_row and told["factor"] == good.factor
    row = next(each for each in found["phones"] if each["artifact"] == "ort")
    assert row["decode"]["high"] / row["decode"]["value"] == pytest.approx(good.factor)
    assert "no public figures" in plan(*words, "--phones", "no phone", expect=2).stderr


def test_the_sample_model_is_too_small_for_a_forecast():
    said = plan("--target", "ios").stdout
    assert "far less or more than any that was measured publicly" in " ".join(said.split())


def test_a_share_that_is_constant_is_found():
    errors = errors_of(figures_like(0, 0.5), DECODE, "cpu")
    assert np.median([each.row_error for each in errors]) < 0.03


def test_the_page_has_the_tables_that_the_figures_give(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "benchmarks"))
    tables = importlib.import_module("forecast")
    page = (ROOT / "docs" / "pages" / "guides" / "speed.md").read_text(encoding="utf-8")
    for lines in (tables.summary(), tables.sources()):
        assert "\n".join(lines) in page, "run: python tests/benchmarks/forecast.py --markdown"
