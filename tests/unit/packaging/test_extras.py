"""The extras of pyproject.toml and what the backends and ``slmkit doctor`` say are one thing."""

from __future__ import annotations

import re

import pytest
from packaging.requirements import Requirement

from extras import EXTRAS, MACHINES, PROJECT, PYTHONS, ROOT, packages
from slmkit.backend import declaration, registry
from slmkit.backend.registry import declarations, require_packages
from slmkit.cli.doctor import OTHERS, examine
from slmkit.errors import MissingPackageError
from slmkit_litert.declarations import WITHOUT_CUDA


def on(machine: str, monkeypatch) -> None:
    """Make this machine look like another one, to the declarations that ask while they run."""
    monkeypatch.setattr(declaration, "this_machine", lambda: machine)
    monkeypatch.setattr(registry, "this_machine", lambda: machine)


@pytest.mark.parametrize("machine", MACHINES)
def test_all_holds_what_the_backends_say_of_a_machine(machine, monkeypatch):
    on(machine, monkeypatch)
    everything = packages("all", machine)
    for each in declarations().values():
        if each.available:
            assert packages(each.extra, machine) <= everything, each.artifact
        else:
            assert not packages(each.extra, machine) <= everything, each.artifact


def test_packages_of_two_extras_have_one_version():
    asked: dict[str, set[str]] = {}
    for each in (Requirement(line) for lines in EXTRAS.values() for line in lines):
        asked.setdefault(each.name, set()).add(str(each.specifier))
    assert {name: found for name, found in asked.items() if len(found) > 1} == {}


def test_doctor_shows_every_extra_and_only_their_packages():
    here = declaration.this_machine()
    if here not in MACHINES:
        pytest.skip(f"the extras are written down for {', '.join(MACHINES)}, not for {here}")
    rows = {row.extra: row for row in examine() if row.extra in EXTRAS}
    assert set(rows) == set(EXTRAS) - {"all", "demo"}
    for extra, row in rows.items():
        assert set(row.packages) <= packages(extra, here), extra
    assert {each.name for each in OTHERS} <= set(EXTRAS)


def test_doctor_gives_no_command_for_what_a_machine_cannot_have(monkeypatch, from_index):
    on("darwin-arm64", monkeypatch)
    monkeypatch.setattr(registry, "_version", lambda name: None)
    commands = {row.extra: row.command for row in examine()}
    assert commands["hexagon"] is None
    assert commands["coreml"] == 'pip install "slmkit[coreml]"'


def test_an_artifact_of_other_machines_is_one_sentence_with_the_ones_that_remain(monkeypatch):
    on("linux-aarch64", monkeypatch)
    monkeypatch.setattr(registry, "_version", lambda name: None)
    with pytest.raises(MissingPackageError) as caught:
        require_packages(["ort", "hexagon", "litert"])
    assert caught.value.message == (
        "hexagon can be built on linux-x86_64; this machine is linux-aarch64"
    )
    assert caught.value.hint == "choose others: --artifacts ort,litert"


def test_python_versions_are_the_same_wherever_they_stand():
    declared = [each for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert [each.rpartition(" ")[2] for each in declared] == list(PYTHONS)
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    oldest = f"({PYTHONS[0].replace('.', ', ')})"
    for name in ("Makefile", "toolkit/slmkit/__init__.py"):
        assert f"sys.version_info < {oldest}" in (ROOT / name).read_text(encoding="utf-8"), name


def test_the_version_stands_in_one_place():
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT


@pytest.mark.parametrize("machine", MACHINES)
def test_litert_looks_for_the_tensorflow_that_its_extra_installs(machine):
    name = "tensorflow-cpu" if machine in WITHOUT_CUDA else "tensorflow"
    assert {each for each in packages("litert", machine) if "tensorflow" in each} == {name}
