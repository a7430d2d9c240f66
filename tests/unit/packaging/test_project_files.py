"""Changelog fragments, the example workflow and type markers are what they should be."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from extras import MACHINES, PYTHONS, ROOT, packages
from slmkit.backend.registry import declaration_of
from slmkit.cli.main import main

TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
IN_WHEEL = TOOLS["hatch"]["build"]["targets"]["wheel"]["only-include"]
PACKAGES = [path for path in IN_WHEEL if path.startswith(("toolkit/", "targets/"))]
TYPES = {each["directory"]: each["name"] for each in TOOLS["towncrier"]["type"]}
FRAGMENTS = ROOT / TOOLS["towncrier"]["directory"]
EXAMPLE = ROOT / "docs" / "pages" / "examples" / "ci.yml"
WORKFLOW = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
STEPS = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
COMMANDS = [shlex.split(step["run"].split(" > ")[0]) for step in STEPS if "run" in step]
SLMKIT = [words for words in COMMANDS if words[0] == "slmkit"]


def value_of(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


@pytest.mark.parametrize("path", sorted(FRAGMENTS.iterdir()), ids=lambda path: path.name)
def test_a_change_is_named_as_towncrier_reads_it_and_is_short(path):
    if path.name == "README.md":
        shown = re.findall(r"^\| `(\w+)` \| ([\w-]+) \|", path.read_text(encoding="utf-8"), re.M)
        assert dict(shown) == TYPES
        return
    assert re.fullmatch(rf"(\d+|\+[a-z0-9-]+)\.({'|'.join(TYPES)})\.md", path.name)
    text = path.read_text(encoding="utf-8").strip()
    assert 20 < len(text) < 400
    assert "\n\n" not in text  # one item of a list


def test_the_changelog_has_only_the_sections_of_the_fragments():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert TOOLS["towncrier"]["start_string"] in text
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= set(TYPES.values())


@pytest.mark.parametrize("words", SLMKIT, ids=lambda words: words[1])
def test_a_command_of_the_example_workflow_exists_with_its_options(words):
    command = main.commands[words[1]]
    known = {option for each in command.params for option in each.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_example_workflow_installs_what_it_builds_and_keeps_what_it_wrote():
    (installed,) = [words[-1] for words in COMMANDS if "pip" in words]
    extras = set(installed.removeprefix("slmkit[").removesuffix("]").split(","))
    built = [words for words in SLMKIT if words[1] in {"plan", "build"}]
    assert len(built) == 2
    for words in built:
        artifacts = value_of(words, "--artifacts").split(",")
        assert {declaration_of(each).extra for each in artifacts} == extras
    words = built[-1]
    assert value_of(words, "--junit") in STEPS[-2]["with"]["path"].split()
    bundle = f"{value_of(words, '--out')}/{value_of(words, '--model')}-android-int4"
    kept = [step["with"]["path"] for step in STEPS if "upload-artifact" in step.get("uses", "")]
    assert [f"{bundle}/manifest.json" in kept[0], kept[1]] == [True, bundle]
    (python,) = [step["with"]["python-version"] for step in STEPS if "setup-python" in str(step)]
    assert python in PYTHONS


def taken_by_github(workflow: Path) -> subprocess.CompletedProcess[str]:
    """The check of a workflow against GitHub's schema, a copy of which the package brings."""
    words = ["check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(workflow)]
    return subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)


def test_the_example_workflow_is_one_that_github_takes(tmp_path):
    done = taken_by_github(EXAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    del broken["jobs"]["bundle"]["runs-on"]
    path = tmp_path / "broken.yml"
    path.write_text(yaml.safe_dump({"on" if key is True else key: broken[key] for key in broken}))
    done = taken_by_github(path)
    assert done.returncode == 1 and "runs-on" in done.stdout


def test_the_cache_of_the_example_workflow_is_the_one_that_slmkit_uses():
    (cached,) = [step["with"]["path"] for step in STEPS if "actions/cache" in step.get("uses", "")]
    assert WORKFLOW["env"]["SLMKIT_CACHE"].endswith(f"/{cached}")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_that_it_has_types(package):
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("machine", MACHINES)
def test_the_demo_and_the_tests_bring_everything_that_a_machine_builds(machine):
    for extra in ("demo", "test"):
        assert packages("all", machine) <= packages(extra, machine)
