"""The iOS sample app: its Xcode project holds together, and its core stays small and portable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app_tools import APPS, code_lines

IOS = APPS / "ios"
PROJECT = IOS / "SlmkitSample.xcodeproj" / "project.pbxproj"
CORE, APP = IOS / "SlmkitCore" / "Sources" / "SlmkitCore", IOS / "App"
ID = re.compile("[0-9A-F]{24}")
LINES = 800  # of code in the app and its core
OF_OTHERS = {
    "CoreML",
    "CryptoKit",
    "Foundation",
    "FoundationModels",
    "Observation",
    "SwiftUI",
    "os",
}


@pytest.fixture(scope="module")
def project():
    parser = pytest.importorskip(
        "openstep_parser", reason='pip install ".[test]" brings the parser'
    )
    return parser.OpenStepDecoder.ParseFromString(PROJECT.read_text("utf-8"))


def sources(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.swift"))


def references(value) -> list[str]:
    if isinstance(value, dict):
        return [found for each in value.values() for found in references(each)]
    if isinstance(value, list):
        return [found for each in value for found in references(each)]
    return [value] if ID.fullmatch(str(value)) else []


def test_every_object_of_the_project_is_there_and_reached(project):
    objects, reached, left = project["objects"], set(), [project["rootObject"]]
    while left:
        name = left.pop()
        assert name in objects, f"{name} is nowhere"
        if name not in reached:
            reached.add(name)
            left += references(objects[name])
    assert reached == set(objects)


def test_every_path_of_the_project_is_there(project):
    for each in project["objects"].values():
        path = each.get("relativePath", each.get("path"))
        if path and each.get("sourceTree") != "BUILT_PRODUCTS_DIR":
            assert (IOS / path).exists(), path


def test_the_app_links_the_package_s_product(project):
    products = [
        each["productName"]
        for each in project["objects"].values()
        if each["isa"] == "XCSwiftPackageProductDependency"
    ]
    package = (IOS / "SlmkitCore" / "Package.swift").read_text("utf-8")
    assert products == ["SlmkitCore"]
    assert '.library(name: "SlmkitCore"' in package


def test_project_and_package_ask_for_the_same_system(project):
    settings = [each.get("buildSettings", {}) for each in project["objects"].values()]
    targets = {each.get("IPHONEOS_DEPLOYMENT_TARGET") for each in settings} - {None}
    package = (IOS / "SlmkitCore" / "Package.swift").read_text("utf-8")
    assert targets == {"18.0"} and ".iOS(.v18)" in package


def test_the_core_imports_foundation_alone():
    texts = [path.read_text("utf-8") for path in sources(CORE)]
    found = {name for text in texts for name in re.findall(r"^\s*import (\S+)", text, re.M)}
    assert found == {"Foundation"}


def test_the_app_imports_apple_s_modules_and_the_core_alone():
    texts = [path.read_text("utf-8") for path in sources(APP)]
    found = {name for text in texts for name in re.findall(r"^\s*import (\S+)", text, re.M)}
    assert found <= {*OF_OTHERS, "SlmkitCore"}
    stubs = {path.name for path in (IOS / "stubs").iterdir()}
    assert stubs == found - {"Foundation", "Observation", "SlmkitCore"}


def test_the_app_is_small():
    assert sum(map(code_lines, sources(CORE) + sources(APP))) <= LINES


def test_no_name_of_an_input_is_a_placeholder():
    """What the app feeds and reads by name is in the coreml contract."""
    contract = (APPS.parent / "docs" / "pages" / "contracts" / "coreml.md").read_text("utf-8")
    for name in ("ids", "position", "hidden", "hidden_out", "logits", "prefill", "decode"):
        assert f'"{name}"' in (APP / "CoreMLBackend.swift").read_text("utf-8")
        assert name in contract
