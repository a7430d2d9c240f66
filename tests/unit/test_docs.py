"""The documents say what is: commands and options exist, the tree is a real one."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import yaml

from slmkit.backend.registry import targets
from slmkit.checkpoint.folder import SAMPLE_NAME
from slmkit.cli.main import main
from slmkit.models.registry import MODELS
from slmkit.planning.plan import Request
from slmkit.recipe.recipe import SHIPPED, shipped_names
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from tiny_models import STORIES

DEMO = os.environ.get("SLMKIT_DEMO")  # the bundle that `make demo` has just built
ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "recipes/README.md",
        "sample_apps/home_model/README.md",
    )
]


def blocks(text):
    return re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)


def commands(path):
    lines = "\n".join(blocks(path.read_text(encoding="utf-8"))).splitlines()
    parts = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    return [shlex.split(part) for part in parts if part.startswith("slmkit ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists_with_its_options(path):
    for words in commands(path):
        command = main
        for word in words[1:]:
            inner = getattr(command, "commands", {})
            if word in inner:
                command = inner[word]
        assert command is not main or words[1].startswith("-"), words
        known = {option for each in command.params for option in each.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_the_first_block_is_the_makefile_s_two_targets():
    first = [line.split("#")[0].split() for line in blocks(README)[0].strip().splitlines()]
    assert first == [["make", "demo"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^demo:", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)


def test_the_readme_names_every_command_model_type_target_and_recipe():
    for name in (*main.commands, *MODELS, *targets()):
        assert name in README, name
    recipes = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for name in shipped_names():
        assert f"`{name}`" in recipes, name


def one_gpu(folder) -> str:
    """The recipe int4 with one GPU library instead of two."""
    recipe = yaml.safe_load((SHIPPED / "int4.yaml").read_text(encoding="utf-8"))
    recipe["artifacts"]["mlc"] = {"gpus": ["adreno"]}
    path = folder / "int4.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return str(path)


def a_bundle(folder) -> tuple[str, Path]:
    """A model's name and its bundle: CI's demo, or one that is built now."""
    if DEMO:
        return SAMPLE_NAME, Path(DEMO)
    request = Request(
        STORIES, "android", one_gpu(folder), folder, options={"hexagon": {"soc": ["sm8550"]}}
    )
    return STORIES.name, build(request, Silent()).folder


def test_the_tree_of_a_bundle_is_a_real_one(tmp_path):
    model, folder = a_bundle(tmp_path)
    tree = next(block for block in blocks(README) if "manifest.json" in block)
    lines = (line.strip().split("  ")[0] for line in tree.strip().splitlines()[1:])
    shown = {line.rstrip("/").replace("home-", f"{model}-") for line in lines}
    real = {path.name for path in folder.rglob("*")}
    optional = {"chat_template.jinja", "tokenizer/", "special_tokens_map.json"}
    optional |= {name for name in shown if name.endswith("mali.tar")}
    assert len(shown & optional) >= 1
    assert shown - optional <= real | {"tokenizer"}
    assert {path.name for path in folder.iterdir()} <= shown


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_a_document_names_exist(path):
    named = re.findall(
        r"`((?:toolkit|targets|tests|recipes|sample_apps)/[\w./-]*)`", path.read_text()
    )
    for name in named:
        assert (ROOT / name).exists(), name
