"""The Android app's sources: a core free of platforms, one version of a library, few lines."""

from __future__ import annotations

import re

import pytest

from app_tools import APPS, code_lines

APP = APPS / "android"
SOURCES = sorted((APP / "app" / "src").rglob("*.kt"))
MAIN = [path for path in SOURCES if "test" not in path.relative_to(APP).parts]
CORE = [path for path in MAIN if path.parent.name == "core"]
OF_CORE = (
    "java.",
    "kotlin.",
    "kotlinx.coroutines.",
    "kotlinx.serialization.",
    "dev.slmkit.sample.core.",
)
LINES, WIDTH = 800, 120  # of code in all the app; letters of a line
GRADLE = (APP / "app" / "build.gradle.kts").read_text(encoding="utf-8")


def imports(path):
    return re.findall(r"^import (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_is_free_of_platforms(path):
    assert [name for name in imports(path) if not name.startswith(OF_CORE)] == []


def test_android_s_own_classes_are_in_the_screens_and_the_phone_alone():
    users = {
        path.name for path in MAIN if any(name.startswith("android") for name in imports(path))
    }
    assert users == {"ChatActivity.kt", "SelfTestActivity.kt", "Screens.kt", "Phone.kt"}


def test_the_app_is_small():
    assert sum(map(code_lines, MAIN)) <= LINES


@pytest.mark.parametrize("path", MAIN, ids=lambda path: path.name)
def test_lines_are_no_wider_than_a_screen(path):
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= WIDTH


def test_strings_of_the_screens_exist_and_are_used():
    path = APP / "app" / "src" / "main" / "res" / "values" / "strings.xml"
    defined = set(re.findall(r'<string name="(\w+)">', path.read_text(encoding="utf-8")))
    texts = "".join(path.read_text(encoding="utf-8") for path in MAIN)
    used = set(re.findall(r"R\.string\.(\w+)", texts)) | {"app_name"}  # of the manifest
    assert defined == used


def test_activities_of_the_manifest_are_classes():
    manifest = (APP / "app" / "src" / "main" / "AndroidManifest.xml").read_text(encoding="utf-8")
    named = re.findall(r'android:name="dev\.slmkit\.sample\.(\w+)"', manifest)
    assert named == ["ChatActivity", "SelfTestActivity"]
    assert {f"{name}.kt" for name in named} <= {path.name for path in MAIN}


def test_every_runtime_library_has_one_version_and_is_not_compressed():
    versions = dict(re.findall(r'"com\.microsoft\.onnxruntime:(\S+):([\d.]+)"', GRADLE))
    assert set(versions) == {"onnxruntime-android", "onnxruntime"}
    assert len(set(versions.values())) == 1
    assert re.search(r'noCompress \+= listOf\("onnx", "data", "litertlm"\)', GRADLE)
