"""Places of the sample app's self-test: commands through recording fakes that answer from files.

Commands tested, never executed: no phone, no simulator and no Xcode is here.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app_fakes import answers, fake_tools, see
from slmkit.bundle.manifest import read_manifest
from slmkit.devices.join import PROVED, join_report
from slmkit.devices.places.app import APP, Waiting, app_of, parse_iphones, parse_simulators
from slmkit.devices.places.listing import listed
from slmkit.devices.self_test import parse_report, prove_by_app
from slmkit.errors import BackendError, RefusedError, UsageError
from slmkit.workflows.bench import benchmark, prove_on
from tiny_bundles import ort_bundle

SOON = Waiting(most=5, pause=0.01)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


@pytest.fixture
def fakes(tmp_path, monkeypatch, bundle):
    return fake_tools(tmp_path, answers(bundle), monkeypatch)


def prove(bundle, where, waiting=SOON):
    app = app_of(where)
    assert app is not None
    return prove_by_app(bundle, read_manifest(bundle), app, (), waiting)


STARTS = {
    "adb-app": f"adb -s P1 shell am start -S -W -n {APP}/{APP}.SelfTestActivity",
    "simctl": f"xcrun simctl launch --terminate-running-process S1 {APP} --self-test",
    "devicectl": "xcrun devicectl device process launch --device S1 --terminate-existing "
    f"{APP} --self-test",
}


@pytest.mark.parametrize("where", STARTS)
def test_the_self_test_is_started_and_its_report_judged(bundle, fakes, where):
    found = prove(bundle, where)
    assert STARTS[where] in (fakes / "log").read_text().splitlines()
    (run,) = found.runs
    assert run.tokens is not None
    assert run.tokens.passed
    assert run.tokens.top1 == 1
    assert run.tokens.snr_db > 100
    assert run.rank is None
    assert "not compared: other logits" in run.notices[0]
    assert found.device.where.startswith(f"{where}:")
    assert bool(found.device.emulated) == (where == "simctl")
    assert (bundle / join_report(bundle, found, PROVED)).is_file()


def test_android_writes_a_list_of_reports(bundle, fakes):
    other = {**answers(bundle), "artifact": "another", "executed": False, "errors": ["no NPU"]}
    (fakes / "report").write_text(json.dumps({"reports": [other, answers(bundle)]}))
    assert len(prove(bundle, "adb-app").runs) == 1


def test_wrong_tokens_are_wrong(bundle, fakes):
    (fakes / "report").write_text(json.dumps(answers(bundle, noise=1.0)))
    assert prove(bundle, "simctl").wrong


@pytest.mark.parametrize("where", STARTS)
def test_no_device_two_devices_and_a_strange_one(fakes, where):
    tool = where.partition("-")[0]
    see(fakes, "S1", "S2")
    with pytest.raises(BackendError, match=f"{tool} sees 2 devices") as error:
        app_of(where)
    assert f"--on {where}:" in error.value.hint
    with pytest.raises(BackendError, match=f"{tool} sees no device X"):
        app_of(f"{where}:X")
    see(fakes)
    with pytest.raises(BackendError, match=f"{tool} sees no device"):
        app_of(where)


@pytest.mark.parametrize("where", STARTS)
def test_without_the_tool(monkeypatch, tmp_path, where):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match=r"there is no (adb|xcrun) here"):
        app_of(where)


@pytest.mark.parametrize("where", STARTS)
def test_without_the_app(bundle, fakes, where):
    (fakes / "installed").unlink()
    (fakes / "packages").write_text("")
    with pytest.raises(BackendError) as error:
        prove(bundle, where)
    assert "slmkit app new" in error.value.hint


@pytest.mark.parametrize(
    ("text", "said"), [(None, "wrote no report"), ('{"model": ', "damaged"), ("[]", "damaged")]
)
@pytest.mark.parametrize("where", STARTS)
def test_a_report_that_never_comes_or_is_damaged(bundle, fakes, where, text, said):
    (fakes / "report").unlink()
    if text is not None:
        (fakes / "report").write_text(text)
    with pytest.raises(BackendError, match=said):
        prove(bundle, where, Waiting(most=0.3, pause=0.01))


def test_an_older_report_of_an_iphone_is_not_taken_for_the_new_one(bundle, fakes):
    (fakes / "older").write_bytes((fakes / "report").read_bytes())
    with pytest.raises(BackendError, match="wrote no report"):
        prove(bundle, "devicectl", Waiting(most=0.3, pause=0.01))


@pytest.mark.parametrize("change", ["model", "name", "rows"])
def test_a_report_of_another_bundle_is_refused(bundle, fakes, change):
    report = answers(bundle)
    if change == "model":
        report["model"] = "other"
    elif change == "name":
        report["cases"][0]["name"] = "other"
    else:
        report["cases"][0]["rows"].pop()
    (fakes / "report").write_text(json.dumps(report))
    with pytest.raises(RefusedError, match="of another bundle"):
        prove(bundle, "simctl")


def test_a_report_of_other_files_is_refused(bundle, fakes):
    """Another build of the same model: its prompts and positions are the same."""
    report = answers(bundle)
    assert len(report["files"]) > 1
    report["files"]["model.onnx.data"] = "0" * 64
    (fakes / "report").write_text(json.dumps(report))
    with pytest.raises(RefusedError, match=r"ran another model\.onnx\.data of ort") as error:
        prove(bundle, "adb-app")
    assert "slmkit app new" in error.value.hint
    del report["files"]
    (fakes / "report").write_text(json.dumps(report))
    with pytest.raises(RefusedError, match="does not tell the hashes"):
        prove(bundle, "adb-app")


def test_an_artifact_that_did_not_run_is_refused_with_its_reason(bundle, fakes):
    report = {**answers(bundle), "executed": False, "errors": ["no NPU here"]}
    (fakes / "report").write_text(json.dumps(report))
    with pytest.raises(RefusedError, match="no NPU here"):
        prove(bundle, "adb-app")


def test_the_places_are_listed_with_what_they_lack(fakes, monkeypatch):
    states = {each.where: each for each in listed()}
    assert "never executed" in states["simctl:S1"].about
    assert states["devicectl:S1"].state == "needs the app there"
    assert "adb-app:P1" in states
    monkeypatch.setenv("PATH", "/nowhere")
    states = {each.where: each for each in listed()}
    assert states["simctl:UDID"].state.startswith("there is no xcrun here")


@pytest.mark.parametrize("where", STARTS)
def test_an_app_of_another_id_is_started_by_it(bundle, fakes, where):
    own = "org.example.chat"
    (fakes / "packages").write_text(f"package:{own}.beta\npackage:{own}\n", encoding="utf-8")
    app = app_of(where, own)
    assert app is not None
    assert prove_by_app(bundle, read_manifest(bundle), app, (), SOON).runs
    lines = (fakes / "log").read_text().splitlines()
    assert STARTS[where].replace(f"{APP} ", f"{own} ").replace(f"{APP}/", f"{own}/") in lines
    pulled = [line for line in lines if " pull " in line]
    assert all(f"/Android/data/{own}/files/" in line for line in pulled)


@pytest.mark.parametrize("name", ["x", "a b.c", "a.b;reboot", "", "a..b"])
def test_what_is_no_app_s_id_is_refused(bundle, fakes, name):
    with pytest.raises(UsageError, match="is no id of an app"):
        prove_on(bundle, "adb-app", app=name)
    assert not (fakes / "log").exists()


def test_bench_is_refused(bundle):
    with pytest.raises(UsageError, match="self-test"):
        benchmark(bundle, on="simctl")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["reports", "cases", "rows", "ids", "devices", "result"]),
            inner,
            max_size=3,
        )
    ),
)


@given(JSON.map(json.dumps) | st.text())
def test_whatever_comes_back_is_refused_or_read(text):
    for read in (parse_simulators, parse_iphones, lambda each: parse_report(each.encode(), "x")):
        try:
            assert isinstance(read(text), tuple)
        except BackendError as error:
            assert error.message


@given(st.data())
def test_a_cut_report_is_damaged(data):
    whole = json.dumps({"reports": [{"model": "m", "artifact": "a", "device": {}}]})
    assert parse_report(whole.encode(), "x")[0].model == "m"
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BackendError, match="damaged"):
        parse_report(whole[:cut].encode(), "x")
