"""The Android sample app: Kotlin on the JVM with the real artifacts, and a signed APK."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import android
import slmkit
from android import named
from android_tools import app, library, write_assets, write_greedy
from apk import Failed, check, check_places, parts, run, stored
from app_vectors import KINDS, write_random_vectors
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.inference.load import load

DEMO = os.environ.get("SLMKIT_DEMO")  # the bundle that `make demo` has just built
MODEL_TEST = (
    Path(android.__file__).parents[1] / "android/app/src/test/kotlin/dev/slmkit/sample/ModelTest.kt"
)
KOTLIN = Path(__file__).resolve().parents[1] / "fixtures" / "android_runtimes"
SAME = 1e-5  # of logits in Python and on the JVM: both call one library; vectors have 5 digits
TOP = 8  # logits of a step in a report
INT8_CACHE = """
extends: int4
name: int8-cache
summary: As int4, with a KV cache of 8-bit integers.
artifacts: {ort: {kv_cache: int8}}
"""
MEGABYTES = 40  # of an APK for arm64 with the sample model: 32 are ONNX Runtime


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The sample model's bundle: CI's demo, or one that is built now."""
    if DEMO:
        return Path(DEMO)
    out = tmp_path_factory.mktemp("bundle")
    few = ["ort", "litert"]
    return slmkit.build(SAMPLE_MODEL, target="android", artifacts=few, out=out, cache=False).path


@pytest.fixture(scope="module")
def assets(bundle, tmp_path_factory):
    return write_assets(bundle, "ort", tmp_path_factory.mktemp("assets"))


@pytest.fixture(scope="module")
def greedy(bundle, tmp_path_factory):
    return write_greedy(bundle, "ort", tmp_path_factory.mktemp("greedy"))


@pytest.fixture(scope="module")
def classes(assets, tmp_path_factory):
    """Everything that runs on the JVM, compiled once: the class path."""
    made, out = app(assets), tmp_path_factory.mktemp("classes")
    tests = [
        *sorted((made.app / "src" / "test" / "kotlin").rglob("*.kt")),
        *sorted(KOTLIN.glob("*.kt")),
    ]
    return made.for_jvm(out, "litertlm", tests, made.tools / "jna.jar")


@pytest.fixture
def junit(classes, tmp_path) -> Callable[..., str]:
    """Runs test classes on assets; what JUnit says."""

    def call(assets: Path, vectors: list[Path], *names: str, **properties: str | Path) -> str:
        given = {
            "slmkit.vectors": os.pathsep.join(map(str, vectors)),
            "slmkit.cache": tmp_path,
            **{f"slmkit.{key}": value for key, value in properties.items()},
        }
        return app(assets).unit_tests(
            classes, [f"dev.slmkit.sample.{name}" for name in names], **given
        )

    return call


def test_core_model_and_chat_are_right_on_the_jvm(junit, assets, greedy, tmp_path):
    """The unit tests of the app itself, with the artifact that Python has just run."""
    said = junit(
        assets,
        [greedy],
        *("ModelTest", "RefusalsTest", "VectorsTest"),
        tolerance=str(SAME),
        report=tmp_path / "report.json",
    )
    assert re.fullmatch(r"tests executed: \d+, failed: 0", said.splitlines()[-1]), said
    assert "logits differ from Python's by at most" in said  # the test was not left out


def test_a_test_that_ends_at_an_assumption_is_reported_as_not_executed(junit, assets, tmp_path):
    """Without vectors of the model its logits are compared with nothing."""
    random = write_random_vectors(tmp_path / "random")
    all_of_them = len(re.findall("@Test", MODEL_TEST.read_text(encoding="utf-8")))
    last = junit(assets, [random], "ModelTest").splitlines()[-1]
    assert last.startswith(f"tests executed: {all_of_them - 1}, failed: 0; not executed: greedy_")
    assert "(no vectors of " in last


def test_keys_and_values_may_be_integers(junit, tmp_path):
    recipe = tmp_path / "int8-cache.yaml"
    recipe.write_text(INT8_CACHE, encoding="utf-8")
    made = slmkit.build(
        SAMPLE_MODEL,
        target="android",
        recipe=recipe,
        artifacts=["ort"],
        out=tmp_path / "dist",
        cache=False,
    ).path
    assets = write_assets(made, "ort", tmp_path / "assets")
    greedy = write_greedy(made, "ort", tmp_path / "greedy")
    said = junit(assets, [greedy], "ModelTest", tolerance=str(SAME))
    assert "logits differ from Python's by at most" in said


def test_vectors_of_every_kind_of_tokenizer_and_random_texts_hold(junit, assets, tmp_path):
    random = write_random_vectors(tmp_path / "random")
    said = junit(assets, [KINDS[0].parent, random], "VectorsTest")
    assert said.splitlines()[-1] == "tests executed: 3, failed: 0", said


def test_a_wrong_vector_fails(junit, assets, greedy, tmp_path):
    """The tests can fail: one id more, one letter less, another pick."""
    place = tmp_path / "vectors"
    shutil.copytree(greedy, place)
    (path,) = place.glob("*/vectors.json")
    wrong = json.loads(path.read_text(encoding="utf-8"))
    wrong["tokenizer"][0]["ids"].append(7)
    wrong["chat"][0]["text"] += " "
    wrong["sampler"][1]["ids"][-1] += 1
    wrong["greedy"][0]["steps"][2]["top"][0][1] += 2 * SAME
    path.write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(Failed, match=r"Failures: 4"):
        junit(assets, [place], "VectorsTest", "ModelTest", tolerance=str(SAME))


def test_the_report_of_the_self_test_has_python_s_logits(junit, bundle, assets, greedy, tmp_path):
    place = tmp_path / "report.json"
    junit(assets, [greedy], "ModelTest", report=place)
    report = json.loads(place.read_text(encoding="utf-8"))
    cases = json.loads((assets / "cases.json").read_text(encoding="utf-8"))["cases"]
    runner, signal, noise, same, steps = load(bundle, "ort").runner, 0.0, 0.0, 0, 0
    assert (report["format"], report["executed"]) == ("slmkit-device-report/1", True)
    assert report["errors"] == []
    assert set(report["files"]) >= {"model.onnx", "model.onnx.data"}
    for name, digest in report["files"].items():
        assert digest == hashlib.sha256((assets / "model" / name).read_bytes()).hexdigest()
    for case, told in zip(cases, report["cases"], strict=True):
        runner.reset()
        logits = runner.feed(np.asarray(case["prompt_ids"]))[-1]
        for step, row in zip(case["steps"], told["rows"], strict=True):
            best = np.argsort(-logits, kind="stable")[:TOP]
            assert row["ids"] == best.tolist()
            assert row["logits"] == pytest.approx(logits[best].tolist(), abs=SAME)
            assert row["norm"] == pytest.approx(np.logaddexp.reduce(logits.astype(float)), abs=SAME)
            ids, want = np.transpose(step["top"])
            signal, noise = (
                signal + (want**2).sum(),
                noise + ((logits[ids.astype(int)] - want) ** 2).sum(),
            )
            same, steps = same + (best[0] == ids[0]), steps + 1
            logits = runner.feed(np.asarray([step["id"]]))[-1]
    assert report["db"] == pytest.approx(10 * np.log10(signal / noise), abs=1e-3)
    assert report["greedy"] == same / steps


def test_litert_lm_answers_through_the_app_s_backend_as_the_reference(
    junit, bundle, greedy, tmp_path
):
    litert = write_assets(bundle, "litert", tmp_path / "litert")
    said = junit(litert, [greedy], "LiteRtLmTest", litertlm=library("litert_lm", "liblitert-lm.so"))
    assert "\ntests executed: 4, failed: 0\n" in said  # and then the runtime's own last words


def test_onnxruntime_genai_answers_as_python(junit, assets, greedy, tmp_path):
    beside = tmp_path / "lib"  # it looks for ONNX Runtime beside itself, by this name
    beside.mkdir()
    genai = library("onnxruntime_genai", "libonnxruntime-genai.so")
    (beside / genai.name).symlink_to(genai)
    (beside / "libonnxruntime.so").symlink_to(library("onnxruntime", "capi/libonnxruntime.so.*"))
    said = junit(assets, [greedy], "GenaiTest", genai=beside / genai.name)
    assert said.splitlines()[-1] == "tests executed: 1, failed: 0", said


def test_the_sources_compile_against_android_and_a_newer_call_does_not(classes, assets, tmp_path):
    """The flavor litertlm; plain becomes the APK. android.jar is of API 23."""
    made = app(assets)
    made.resources(tmp_path)
    made.for_android(tmp_path / "classes", "litertlm", classes[0])
    newer = tmp_path / "Newer.kt"
    newer.write_text("fun soc() = android.os.Build.SOC_MODEL\n", encoding="utf-8")
    with pytest.raises(Failed, match="unresolved reference 'SOC_MODEL'"):
        made.kotlin(
            [newer], tmp_path / "newer", [*made.jars(), made.tools / "android.jar"], "-no-jdk"
        )


def test_a_warning_is_an_error(classes, assets, tmp_path):
    unused = tmp_path / "Unused.kt"
    unused.write_text("fun one(): Int = 1!!\n", encoding="utf-8")
    with pytest.raises(Failed, match="warnings found and -Werror specified"):
        app(assets).kotlin([unused], tmp_path / "unused", app(assets).jars())


@pytest.fixture(scope="module")
def apk(assets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("apk")
    (folder / "work").mkdir()
    made = app(assets)
    made.apk(folder / "app.apk", folder / "work")
    return folder / "app.apk"


def test_the_apk_is_signed_aligned_and_small(apk, assets):
    tools = app(assets).tools
    check(apk, tools)
    places = stored(apk)
    libraries = [name for name in places if name.endswith(".so")]
    assert sorted(libraries) == [f"lib/arm64-v8a/libonnxruntime{end}.so" for end in ("", "4j_jni")]
    assert all(places[name] % 16384 == 0 for name in libraries)
    assert {"assets/model/model.onnx", "assets/model/model.onnx.data"} <= set(
        places
    )  # not compressed
    sizes = parts(apk)
    assert sum(sizes.values()) == apk.stat().st_size < MEGABYTES * 10**6
    tree = run(tools / "aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", apk)
    assert re.search(r"extractNativeLibs\(\w+\)=false", tree)
    said = run(tools / "aapt2", "dump", "badging", apk)
    assert "package: name='dev.slmkit.sample'" in said
    assert "minSdkVersion:'26'" in said
    assert "launchable-activity: name='dev.slmkit.sample.ChatActivity'" in said
    assert "native-code: 'arm64-v8a'" in said


def test_a_changed_apk_and_a_shifted_library_are_found(apk, assets, tmp_path):
    tools, broken = app(assets).tools, tmp_path / "broken.apk"
    data = bytearray(apk.read_bytes())
    data[stored(apk)["assets/model/model.onnx.data"] + 1000] ^= 1
    broken.write_bytes(data)
    with pytest.raises(Failed, match=r"DOES NOT VERIFY|ERROR"):
        check(broken, tools)
    with zipfile.ZipFile(broken, "w") as file:
        file.writestr("lib/arm64-v8a/libshifted.so", b"code")
    with pytest.raises(Failed, match="not at a multiple of 16384"):
        check_places(broken)


def test_the_apk_takes_another_application_id_and_no_assets(assets, tmp_path):
    """As a project of `slmkit app new` whose model is pushed."""
    copy = tmp_path / "app"
    shutil.copytree(app(assets).app.parent, copy, ignore=shutil.ignore_patterns("assets"))
    path = copy / "app" / "build.gradle.kts"
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace('applicationId = "dev.slmkit.sample"', 'applicationId = "org.example.chat"'),
        encoding="utf-8",
    )
    made = type(app(assets))(copy, app(assets).tools)
    base = made.resources(tmp_path)
    assert "package: name='org.example.chat'" in run(made.tools / "aapt2", "dump", "badging", base)
    assert named(sorted((copy / "app" / "src" / "test" / "kotlin").rglob("*.kt")))[0].startswith(
        "dev.slmkit.sample."
    )
