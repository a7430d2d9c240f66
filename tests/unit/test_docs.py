"""The documents say what is: commands, names, files, numbers and pictures are those of the code."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from html import unescape
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import slmkit
import tiers
from slmkit.backend.registry import artifacts_of, declarations, error_kinds, targets
from slmkit.checkpoint.folder import SAMPLE_MODEL, SAMPLE_NAME, open_checkpoint
from slmkit.cli.main import main
from slmkit.models.registry import MODELS
from slmkit.quant.quantize import quantize_rows
from slmkit.recipe.recipe import load_recipe, shipped_names
from tiny_models import tiny_config, write_checkpoint

STEPS = ("report", "ask it", "ship it", "an app")  # after a build
DEMO = os.environ.get("SLMKIT_DEMO")  # the bundle that `make demo` has just built
ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "pages"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "recipes" / "README.md",
    *sorted((ROOT / "sample_apps").glob("*/README.md")),
    *sorted(PAGES.rglob("*.md")),
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in DOCUMENTS}
README, EVERYTHING = TEXTS[ROOT / "README.md"], "\n".join(TEXTS.values())
LONGEST = 120  # lines of the README
WALKED = "model.layers.0.mlp.gate_proj"  # the weight that the page of the architecture follows
COMPUTERS = ("linux-x86_64", "linux-aarch64", "darwin-arm64", "win32-AMD64")  # of the tables
builds = pytest.mark.full(tiers.BUILDS)
by_name = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def page(name):
    return TEXTS[PAGES / name]


def blocks(text, language=r"\w*"):
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)


def commands(text):
    """Commands of code blocks, and those that stand in a sentence."""
    lines = "\n".join(blocks(text, "(?:bash|sh)?")).splitlines()
    parts = [part.strip() for line in lines for part in line.split("#")[0].split("&&")]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    said = re.findall(r"`(slmkit [a-z][^`]*)`", prose)
    found = [part.split(">")[0] for part in [*parts, *said] if part.startswith("slmkit ")]
    return [shlex.split(part) for part in found]


def script(name):
    """A program of docs/ as a module."""
    found = spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = module_from_spec(found)
    found.loader.exec_module(module)
    return module


@by_name
def test_every_command_in_a_document_exists_with_its_options(path):
    for words in commands(TEXTS[path]):
        command = main
        for word in words[1:]:
            command = getattr(command, "commands", {}).get(word, command)
        assert command is not main or words[1].startswith("-"), words
        known = {option for each in command.params for option in each.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, words


def test_the_page_of_the_command_line_is_what_the_commands_say():
    assert page("cli.md") == script("commands").page(), "run: python docs/commands.py"


def test_the_readme_is_short_and_its_first_block_is_the_makefile_s_two_targets():
    assert len(README.splitlines()) <= LONGEST
    first = [line.split("#")[0].split() for line in blocks(README)[0].strip().splitlines()]
    assert first == [["make", "demo"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^ *make ([\w-]+)", "\n".join(blocks(EVERYTHING)), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("name", [*MODELS, *targets(), *declarations(), *shipped_names()])
def test_what_can_be_asked_for_is_named_in_the_readme_and_in_the_tables(name):
    assert f"`{name}`" in README, name
    assert f"`{name}`" in page("supported.md"), name


def test_the_table_of_recipes_names_every_one_and_every_error_is_explained():
    recipes = TEXTS[ROOT / "recipes" / "README.md"]
    for name in shipped_names():
        assert f"| `{name}` |" in recipes, name
    for error, kind in error_kinds(declarations()).items():
        for key, limit in kind.bound.items():
            row = rf"^\| `{error}` \|.*\{{.*\b{key}: {limit:g}\b"
            assert re.search(row, recipes, re.MULTILINE), error
        assert f"\n| `{error}` |" in page("parity.md"), error


@pytest.mark.parametrize("text", [README, page("supported.md")], ids=["README", "supported"])
def test_the_tables_of_computers_are_what_the_backends_declare(text):
    for artifact, declared in declarations().items():
        (row,) = re.findall(rf"^\| [^|]*`{artifact}`[^|]*\|(.*(?:installs|no) \|)$", text, re.M)
        cells = [cell.strip() != "no" for cell in row.strip("|").split("|")]
        assert cells == [not declared.machines or each in declared.machines for each in COMPUTERS]


@by_name
def test_python_blocks_are_python_and_name_what_slmkit_has(path):
    for text in blocks(TEXTS[path], "python"):
        nodes = list(ast.walk(ast.parse(text)))
        for module, name in imported(nodes):
            assert hasattr(importlib.import_module(module), name), f"{module} has no {name}"
        for node in nodes:
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "slmkit":
                assert hasattr(importlib.import_module("slmkit"), node.attr), node.attr


@by_name
def test_python_blocks_of_the_guides_run(path):
    if path != PAGES / "python-api.md":
        for text in blocks(TEXTS[path], "python"):
            exec(text, {"__name__": "documents"})  # noqa: S102 - a document of ours


def test_the_example_of_the_python_api_runs(tmp_path, monkeypatch, capsys):
    write_checkpoint(tmp_path / "my-model", tiny_config("llama"))
    (tmp_path / "my-task.jsonl").write_text('{"prompt": "lights", "answer": "off"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slmkit, "build", partial(slmkit.build, artifacts=["ort"]))  # one suffices
    (example,) = blocks(page("python-api.md"), "python")
    found: dict[str, Any] = {}
    exec(example, found)  # noqa: S102 - a document of ours
    assert found["logits"].shape == (3, tiny_config("llama")["vocab_size"])
    assert found["score"].total == 1
    assert "logits" in capsys.readouterr().out


def test_the_guide_to_a_backend_shows_the_one_of_the_tests():
    shown = blocks(page("guides/add-a-backend.md"), "python")[0].strip()
    outside = ROOT / "tests" / "fixtures" / "outside_backend"
    assert shown in (outside / "abacus" / "declaration.py").read_text(encoding="utf-8")
    point = blocks(page("guides/add-a-backend.md"), "toml")[0].strip().splitlines()[1]
    (points,) = outside.glob("*.dist-info/entry_points.txt")
    assert point.replace('"', "") in points.read_text(encoding="utf-8")


def imported(nodes):
    """What of slmkit some code imports: modules and names."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("slmkit"):
            yield from ((node.module, each.name) for each in node.names)


@by_name
def test_files_that_a_document_names_exist(path):
    top = "toolkit|targets|tests|recipes|sample_apps|docs"
    for name in re.findall(rf"`((?:{top})/[\w./-]*)`", TEXTS[path]):
        assert (ROOT / name).exists(), name


@by_name
def test_functions_that_a_document_names_are_in_the_files_that_it_names(path):
    for name, file in re.findall(r"`([A-Za-z_.]+)` in\s`([\w./]+\.py)`", TEXTS[path]):
        inside = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        for part in name.split("."):
            found = [node for node in inside if part in names_of(node)]
            assert found, f"{file} has no {name}"
            inside = getattr(found[0], "body", [])


def names_of(node):
    """What a statement defines: a function, a class or constants."""
    targets = [getattr(each, "id", "") for each in getattr(node, "targets", [])]
    return {getattr(node, "name", ""), *targets}


@by_name
def test_links_of_a_document_lead_to_files(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXTS[path]):
        assert (path.parent / target).exists(), target


@by_name
def test_no_page_is_missing_in_the_site(path):
    if path.is_relative_to(PAGES):
        nav = (ROOT / "docs" / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
        assert path.relative_to(PAGES).as_posix() in nav


def test_the_ladder_of_the_architecture_is_the_one_that_is_checked():
    house = (ROOT / "tests" / "unit" / "test_house.py").read_text(encoding="utf-8")
    ladder = next(
        ast.literal_eval(node.value)
        for node in ast.parse(house).body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "LADDER"
    )
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", page("architecture.md"), re.MULTILINE)
    steps = {name: int(step) for step, name in rows}
    checked = {name: step for step, names in enumerate(ladder[::-1]) for name in names}
    assert checked.items() <= {**steps, "__main__": len(ladder) - 1}.items()


def test_the_numbers_of_the_weight_that_is_followed_are_computed():
    checkpoint, recipe = open_checkpoint(SAMPLE_MODEL), load_recipe("int4")
    scheme = recipe.scheme(WALKED, checkpoint.spec.layers)
    floats = checkpoint.shards.rows(f"{WALKED}.weight", slice(0, 8))
    arrays, _ = quantize_rows(WALKED, floats, scheme)
    packed = arrays[f"{WALKED}.codes"][0][:4]
    codes = [int(code) - 8 for byte in packed for code in (byte & 15, byte >> 4)]
    channel, factor = arrays[f"{WALKED}.channel_scales"][0], arrays[f"{WALKED}.multipliers"][0, 0]
    text = page("architecture.md")
    assert f"`{scheme}`" in text
    assert f"`{' '.join(f'{each:.4f}' for each in floats[0, :8])}`" in text
    assert f"`{' '.join(map(str, codes))}`" in text
    assert f"`{' '.join(f'0x{byte:02X}' for byte in packed)}`" in text
    assert f"`{channel:.4g}`" in text
    assert (
        f"`{codes[0]} * {channel:.4g} * {factor} = {codes[0] * float(channel) * factor:.4f}`"
        in text
    )


@pytest.fixture(scope="module")
def android(tmp_path_factory) -> tuple[str, Path]:
    """A model's name and its bundle: CI's demo, or one that is built now."""
    if DEMO:
        return SAMPLE_NAME, Path(DEMO)
    folder = tmp_path_factory.mktemp("docs")
    model = write_checkpoint(folder / "tiny", tiny_config("llama"))
    few = {"mlc": {"gpus": ["adreno"]}, "hexagon": {"soc": ["sm8550"]}}  # one of each
    bundle = slmkit.build(model, target="android", options=few, context=64, out=folder, cache=False)
    return model.name, bundle.path


@pytest.fixture(scope="module")
def coreml(tmp_path_factory) -> Path:
    """A bundle with Core ML's artifact alone."""
    folder = tmp_path_factory.mktemp("docs")
    model = write_checkpoint(folder / "tiny", tiny_config("llama"))
    bundle = slmkit.build(
        model, target="ios", artifacts=["coreml"], context=64, out=folder, cache=False
    )
    return bundle.path


def tree(text, root):
    """The first words of a tree's lines, without the root."""
    block = next(each for each in blocks(text) if each.startswith(root))
    return {line.split()[0].rstrip("/") for line in block.strip().splitlines()[1:]}


@builds
def test_the_tree_of_a_bundle_is_a_real_one(android):
    model, folder = android
    shown = {name.replace("home-", f"{model}-") for name in tree(page("bundle.md"), "home-android")}
    real = {path.name for path in folder.rglob("*")}
    optional = {"chat_template.jinja", "generation_config.json", f"{model}-slm_int4-mali.tar"}
    assert shown - optional <= real
    assert {path.name for path in folder.iterdir()} <= shown
    if DEMO:
        chips = {"sm8650", "sm8750"}  # shown by one of them
        assert optional <= real
        assert real - shown == chips


@builds
def test_the_tree_of_a_bundle_for_ios_is_a_real_one(coreml):
    shown = tree(page("bundle.md"), "home-ios")
    others = {"golden-mlc.safetensors", "home-slm_int4-apple.tar", "mlc", "params", "program.json"}
    assert others <= shown
    assert shown - others <= {path.name for path in coreml.rglob("*")}


def artifacts(*folders):
    """Every artifact of some manifests, as JSON has it, with the page of its contract."""
    for folder in folders:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        for artifact in manifest["artifacts"]:
            yield artifact, page(f"contracts/{artifact['name']}.md")


@builds
def test_facts_that_a_contract_names_are_in_the_manifest(android, coreml):
    for artifact, text in artifacts(android[1], coreml):
        for path in re.findall(r"`((?:facts|state|report)\.[\w.]+)", text):
            value = artifact
            for name in path.split("."):
                assert name in value, f"{artifact['name']}: {path}"
                value = value[name]


@builds
def test_inputs_and_outputs_of_an_artifact_are_on_its_page(android, coreml):
    for artifact, text in artifacts(android[1], coreml):
        if artifact["name"] == "mlc":  # its functions are in contract.json
            continue
        for tensor in (*artifact["inputs"], *artifact["outputs"]):
            name = re.sub(r"(?<=[._])\d+(?=\.|$)", "I", tensor["name"])
            first, _, part = name.rpartition(".")
            shown = f"`{name.replace('logits_I', 'logits_0')}`" in text
            assert shown or (part == "value" and f"`{first}.key`, `.value`" in text), name


def drawn(picture):
    """Artifact with mode, and error, of each line of a drawn table."""
    lines: dict[str, list[str]] = {}
    for number, text in re.findall(r"url\(#parity-line-(\d+)\)\">([^<]*)</text>", picture):
        lines.setdefault(number, []).append(text.replace("&#160;", " ").strip())
    return {tuple(cells[:2]) for cells in lines.values() if cells[0].strip("─")}


@builds
def test_the_picture_of_parity_has_the_lines_of_a_build(android):
    kept = drawn((PAGES / "images" / "parity.svg").read_text(encoding="utf-8"))
    made = drawn(script("pictures").parity_picture(android[1]))
    assert ("artifact", "error") in made
    assert made == kept if DEMO else made <= kept


def words_of(picture):
    """All text of a drawn terminal, a line each."""
    rows: dict[str, str] = {}
    for number, text in re.findall(r"line-(\d+)\)\">([^<]*)</text>", picture):
        rows[number] = rows.get(number, "") + unescape(text).replace("\xa0", " ")
    return [row.strip() for row in rows.values()]


@builds
def test_the_picture_of_a_build_s_end_has_the_lines_of_a_build(android):
    def labels(picture):
        known = ("artifact", *artifacts_of(targets()["android"]), *STEPS)
        return [label for row in words_of(picture) for label in known if row.startswith(label)]

    kept = (PAGES / "images" / "build.svg").read_text(encoding="utf-8")
    made = script("pictures").build_picture(android[1])
    assert labels(made) == labels(kept) and len(labels(kept)) == 5 + len(STEPS)
    assert f"{android[0]}-android-int4" in "".join(words_of(made))


def test_the_picture_of_a_chat_has_the_sample_model_s_answers():
    """The reference's, which are those of the artifact that talks there."""
    command, *rows = words_of((PAGES / "images" / "chat.svg").read_text(encoding="utf-8"))
    typed = script("pictures").TYPED
    assert command == f"$ slmkit chat dist/{SAMPLE_NAME}-android-int4"
    assert [row for row in rows if row.startswith(">")] == [f"> {line}" for line in typed]
    session = slmkit.load(SAMPLE_MODEL)
    for line in typed:
        if not line.startswith("/"):
            assert session.generate(line) == rows[rows.index(f"> {line}") + 1]


@pytest.mark.skipif(
    find_spec("mkdocs") is None or find_spec("mkdocstrings") is None,
    reason="MkDocs is not installed: pip install '.[docs]'",
)
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    where = ["--config-file", str(ROOT / "docs" / "mkdocs.yml"), "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*command, *where], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for html in tmp_path.rglob("*.html"):
        text = html.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:link|script|img)[^>]*(?:src|href)=\"https?:", text), html
