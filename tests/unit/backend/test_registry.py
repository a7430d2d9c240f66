"""Backends and targets by name, and the one command that installs whatever is missing."""

from __future__ import annotations

import importlib.metadata

import pytest

from slmkit.backend import registry
from slmkit.backend.declaration import EVERY_ERROR, Declaration
from slmkit.cli.doctor import surroundings
from slmkit.errors import BackendError, MissingPackageError, SlmkitError
from slmkit.recipe.bounds import Bound


def test_built_in_backends_come_in_the_order_of_their_ranks():
    assert list(registry.declarations())[:5] == ["ort", "hexagon", "coreml", "litert", "mlc"]
    assert registry.artifacts_of(registry.find_target("ios")) == ("coreml", "mlc")


def test_every_declared_bound_is_one():
    for declared in registry.declarations().values():
        for kind in declared.errors.values():
            assert Bound(**kind.bound) and kind.about
    assert set(EVERY_ERROR) <= set(registry.error_kinds([]))


def test_every_entry_point_is_what_a_checkout_finds_too():
    points = importlib.metadata.entry_points(group=registry.GROUP)
    checkout = {each.artifact: each for each in registry._checkout()}
    for point in points:
        assert checkout[point.name] == point.load()


@pytest.mark.parametrize("find", [registry.find_backend, registry.declaration_of])
def test_an_unknown_artifact_is_one_sentence(find):
    with pytest.raises(BackendError, match="no backend writes 'sixth'") as caught:
        find("sixth")
    assert "hexagon" in caught.value.hint


def test_an_unknown_target_is_one_sentence():
    with pytest.raises(SlmkitError, match="there is no target 'windows'") as caught:
        registry.find_target("windows")
    assert "android, ios" in caught.value.hint


def test_all_missing_packages_are_named_at_once(monkeypatch, from_index):
    gone = ("onnxruntime-qnn", "coremltools")
    real = registry._version
    monkeypatch.setattr(registry, "_version", lambda name: None if name in gone else real(name))
    registry.require_packages(["ort"])
    with pytest.raises(MissingPackageError) as caught:
        registry.require_packages(["ort", "hexagon", "coreml"])
    assert caught.value.message == (
        "the artifact hexagon needs onnxruntime-qnn; the artifact coreml needs coremltools"
    )
    assert caught.value.hint == 'pip install "slmkit[hexagon,coreml]"'
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("requirements", "command"),
    [
        (["slmkit[ort]", "slmkit[mlc]", "slmkit[ort]"], 'pip install "slmkit[ort,mlc]"'),
        (["abacus>=2", "slmkit[ort]"], 'pip install "slmkit[ort]" "abacus>=2"'),
    ],
)
def test_one_command_installs_all(requirements, command, from_index):
    assert registry.pip_command(requirements) == command


def test_what_is_read_is_named_with_the_artifacts(monkeypatch, from_index):
    inputs = {"a GGUF file": ("gguf", "gguf")}
    registry.require_packages(["ort"], inputs)
    monkeypatch.setattr(registry, "_version", lambda name: None if name == "gguf" else "1")
    with pytest.raises(MissingPackageError) as caught:
        registry.require_packages(["ort"], inputs)
    assert (caught.value.message, caught.value.hint) == (
        "a GGUF file needs gguf",
        'pip install "slmkit[gguf]"',
    )


@pytest.mark.parametrize(
    ("extra", "requirements"), [("ort", ("slmkit[ort]",)), ("", ("numpy", "abacus"))]
)
def test_a_declaration_says_how_its_packages_are_installed(extra, requirements):
    packages = ("numpy", "abacus")
    declared = Declaration("abacus", "beads", "abacus.backend", (), packages, extra=extra)
    assert declared.requirements == requirements


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("json:dumps", "names no Declaration"),
        ("json:nothing", "cannot be loaded from json:nothing: AttributeError"),
        ("no_such_package:X", "cannot be loaded from no_such_package:X: ModuleNotFoundError"),
    ],
)
def test_a_broken_entry_point_is_one_sentence_and_leaves_the_others_alone(monkeypatch, value, said):
    point = importlib.metadata.EntryPoint("abacus", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry._installed.cache_clear()
    try:
        assert "ort" in registry.declarations() and "abacus" not in registry.declarations()
        assert registry.find_target("android")
        with pytest.raises(BackendError, match=said):
            registry.find_backend("abacus")
        assert said.split(":")[0] in surroundings()["backends that cannot be loaded"]
    finally:
        registry._installed.cache_clear()


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("json", "lacks VERSION, reads_calibration, answers_chunks, problems, weight_bytes"),
        ("json:tool.nothing", "cannot be loaded from json:tool.nothing: AttributeError"),
        ("no_such_package", "cannot be loaded from no_such_package: ModuleNotFoundError"),
    ],
)
def test_a_module_that_is_no_backend_is_one_sentence(monkeypatch, module, said):
    declared = Declaration("abacus", "beads", module, (), ())
    monkeypatch.setattr(registry, "declarations", lambda: {"abacus": declared})
    with pytest.raises(BackendError, match=said) as caught:
        registry.find_backend("abacus")
    assert "package" in caught.value.hint


def test_every_backend_of_ours_has_the_whole_interface():
    assert {"emit", "open_runner", "state_bytes"} < set(registry._interface())
    for artifact in registry.declarations():
        assert registry.find_backend(artifact)
