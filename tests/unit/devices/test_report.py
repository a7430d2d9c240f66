"""Reports of devices and their forms: what is wrong is never ranked, or shown as fast."""

from __future__ import annotations

import io
import json
import statistics
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from slmkit.cli.tables.bench import bench_shown
from slmkit.devices.exporters import FORMS, exported
from slmkit.devices.local import available_cores, this_device
from slmkit.devices.report import (
    SCHEMA,
    Device,
    DeviceReport,
    Run,
    Samples,
    Speed,
    Tokens,
    ranked,
    schema,
)
from slmkit.errors import UsageError

RIGHT = Tokens(top1=1.0, greedy=99, decoded=99, snr_db=43.0, failures=())
WRONG = Tokens(top1=0.1, greedy=3, decoded=99, snr_db=4.0, failures=("SNR 4.0 dB is below 20 dB",))
LLAMA_BENCH = {  # keys of ``llama-bench -o json`` that are not of llama.cpp alone
    "build_commit",
    "build_number",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_threads",
    "n_gpu_layers",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
}


def speed(decode, prompt=32):
    rates = Samples.of([decode * 0.9, decode, decode * 1.1])
    first = Samples.of([4.0, 5.0, 6.0])
    prefill = Samples.of([6000.0, 6400.0, 7000.0])
    return Speed(prompt=prompt, decoded=16, prefill=prefill, decode=rates, first_token_ms=first)


def run(name, decode, tokens=RIGHT, **more):
    return Run(
        name=name,
        runtime="a runtime 1.0",
        threads=2,
        size=1000,
        load_s=Samples.of([0.1, 0.2, 0.3]),
        cold=speed(decode / 2),
        warm=(speed(decode), speed(decode, 128)),
        memory_peak=90_000_000,
        memory_before=50_000_000,
        tokens=tokens,
        rank=None,
        **more,
    )


def report(*runs, **more):
    return DeviceReport(
        slmkit="0.1.0",
        time="2026-01-01T00:00:00+00:00",
        device=Device(where="local", model="a <chip> & more", os="Linux", abi="x86_64", cores=2),
        model="home",
        parameters=2_000_000,
        recipe="int4",
        runs=ranked(runs),
        not_executed=("hexagon: an emulator computes results, not speed",),
        **more,
    )


SOME = (
    run("slow", 50),
    run("liar", 900, WRONG),
    run("fast", 70),
    run("x.gguf", 80, None, peer=True),
)


def test_an_emulator_s_speeds_are_never_ranked():
    found = ranked([run("slow", 10), run("fast", 30)], emulated=True)
    assert [each.rank for each in found] == [None, None]


def test_the_wrong_are_last_and_have_no_rank_however_fast():
    found = report(*SOME)
    assert [(each.name, each.rank) for each in found.runs] == [
        ("x.gguf", None),
        ("fast", 1),
        ("slow", 2),
        ("liar", None),
    ]
    assert [each.name for each in found.wrong] == ["liar"]


@given(st.lists(st.tuples(st.floats(1, 1e4), st.sampled_from([RIGHT, WRONG, None])), max_size=6))
def test_ranks_are_of_the_right_alone_in_the_order_of_speed(rows):
    runs = ranked([run(str(at), *row) for at, row in enumerate(rows)])
    ranks = [each.rank for each in runs if each.tokens is RIGHT or each.tokens == RIGHT]
    assert ranks == list(range(1, len(ranks) + 1))
    rates = [each.warm[-1].decode.median for each in runs if each.rank]
    assert rates == sorted(rates, reverse=True)
    assert all(each.rank is None for each in runs if each.tokens != RIGHT)


def test_a_report_survives_json_with_its_medians():
    found = report(*SOME)
    text = found.model_dump_json()
    values = json.loads(text)
    assert DeviceReport.model_validate_json(text) == found
    assert values["format"] == "slmkit-device-report/1"
    load = values["runs"][0]["load_s"]
    assert load == {"runs": [0.1, 0.2, 0.3], "median": 0.2, "spread": pytest.approx(1.0)}


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=9))
def test_samples_keep_their_order_median_and_spread(values):
    found = Samples.of(values)
    assert found.median == pytest.approx(statistics.median(values), rel=1e-3)
    assert found.spread == pytest.approx(
        (max(values) - min(values)) / found.median, rel=2e-3, abs=2e-3
    )


def test_tables_mark_the_wrong_and_name_what_did_not_run():
    console = Console(width=200, record=True, file=io.StringIO())
    for each in bench_shown(report(*SOME, busy=3.5)):
        console.print(each)
    said = console.export_text()
    assert "wrong liar" in said and "liar is wrong and not ranked: SNR 4.0 dB" in said
    assert "this computer was busy: a load of 3.5 on 2 cores" in said
    assert "not executed: hexagon" in said and "a peer's weights are others" in said


def test_llama_bench_reads_prompts_and_decoding_apart_and_no_wrong_run():
    tests = json.loads(exported(report(*SOME), "llama-bench"))
    assert {each["model_filename"] for each in tests} == {"x.gguf", "fast", "slow"}
    assert all(set(each) == LLAMA_BENCH for each in tests)
    prompt, decode = tests[:2]
    assert (prompt["n_prompt"], prompt["n_gen"]) == (32, 0)
    assert (decode["n_prompt"], decode["n_gen"], decode["n_depth"]) == (0, 16, 32)
    assert decode["avg_ts"] == pytest.approx(statistics.mean(decode["samples_ts"]))
    assert decode["stddev_ts"] == pytest.approx(statistics.stdev(decode["samples_ts"]))
    for time, rate in zip(decode["samples_ns"], decode["samples_ts"], strict=True):
        assert time == pytest.approx(16 / rate * 1e9)


def test_executorch_gets_a_metric_each_and_of_the_wrong_no_speed():
    metrics = json.loads(exported(report(*SOME), "executorch"))
    keys = {"benchmarkModel", "metric", "actualValue", "targetValue", "deviceInfo"}
    assert all(set(each) == keys for each in metrics)
    assert all(
        set(each["benchmarkModel"]) == {"name", "backend", "quantization"} for each in metrics
    )
    of_liar = {
        each["metric"]: each["actualValue"]
        for each in metrics
        if each["benchmarkModel"]["backend"] == "liar"
    }
    assert of_liar == {"load_status": 1.0, "llm_model_load_time(ms)": 200.0}
    of_fast = {
        each["metric"]: each["actualValue"]
        for each in metrics
        if each["benchmarkModel"]["backend"] == "fast"
    }
    assert of_fast["load_status"] == 0 and of_fast["token_per_sec"] == 70
    assert of_fast["generate_time(ms)"] == pytest.approx(5 + 16 / 70 * 1000)


def test_junit_counts_the_wrong_as_failed_and_the_rest_as_skipped():
    suite = ElementTree.fromstring(exported(report(*SOME), "junit"))  # noqa: S314 - ours
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "1", "errors": "0", "skipped": "1"}
    cases = {case.get("name"): case for case in suite.findall("testcase")}
    failure = cases["liar"].find("failure")
    assert failure is not None and failure.get("message") == "SNR 4.0 dB is below 20 dB"
    skipped = cases["hexagon"].find("skipped")
    assert (
        skipped is not None and skipped.get("message") == "an emulator computes results, not speed"
    )
    values = {each.get("name"): each.get("value") for each in cases["fast"].iter("property")}
    assert values["decode_tokens_per_s_128"] == "70" and values["rank"] == "1"


def test_markdown_has_a_row_for_each_length_and_marks_the_wrong():
    lines = exported(report(*SOME, run("a|b", 5)), "markdown").splitlines()
    rows = [line for line in lines if line.startswith("| ") and "rank" not in line]
    assert len(rows) == 2 * 5 and len({line.count(" | ") for line in rows}) == 1
    assert any("liar" in row and "**wrong**: 10% the same, 3 of 99" in row for row in rows)
    assert any(row.startswith("| 1 | fast |") for row in rows)
    assert lines[-1].startswith("- not executed: hexagon")


@given(st.text(max_size=20))
@settings(max_examples=30)
def test_junit_holds_any_text(text):
    found = report(run(text or "a", 5, WRONG.model_copy(update={"failures": (text,)})))
    ElementTree.fromstring(exported(found, "junit"))  # noqa: S314 - ours


def test_an_unknown_form_is_refused_with_those_that_there_are():
    with pytest.raises(UsageError, match="no form 'xlsx'") as caught:
        exported(report(*SOME), "xlsx")
    assert all(form in caught.value.hint for form in FORMS)


def test_this_computer_has_cores_and_a_name():
    device = this_device()
    assert device.where == "local" and device.model and device.cores == available_cores() >= 1


def test_the_published_schema_is_the_code_s(request):
    text = json.dumps(schema(), indent=2) + "\n"
    if request.config.getoption("--write-golden"):
        SCHEMA.write_text(text, encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") == text


def test_a_report_satisfies_the_published_schema():
    import jsonschema

    values = json.loads(report(*SOME).model_dump_json())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(values)
