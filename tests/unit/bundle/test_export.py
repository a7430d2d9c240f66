"""Export: exactly what an app loads of an artifact, each file as the build wrote it, or nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
from click.testing import CliRunner

from slmkit import api
from slmkit.backend.interface import Artifact, SequenceState
from slmkit.bundle.export import EXPORT, Export
from slmkit.bundle.manifest import BundledArtifact, File, read_manifest
from slmkit.bundle.roles import shipped, with_roles
from slmkit.cli.main import main
from slmkit.errors import BundleError, UsageError
from slmkit.planning.memory import MemoryPlan
from slmkit.system.cache import file_hash
from tiny_bundles import ort_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


def test_every_file_has_a_role(bundle):
    roles = {file.path: file.role for file in read_manifest(bundle).files}
    assert {path for path, role in roles.items() if role == "proof"} == {
        path for path in roles if path.startswith("proof/")
    }
    assert roles["ort/model.onnx"] == roles["tokenizer/tokenizer.json"] == "ships"


def test_an_export_is_what_an_app_loads_and_runs(bundle, tmp_path):
    found = api.Bundle(bundle).export(tmp_path / "app", "ort")
    files = {
        path.relative_to(tmp_path / "app").as_posix(): path
        for path in (tmp_path / "app").rglob("*")
        if path.is_file() and path.name != EXPORT
    }
    assert set(files) == {file.path for file in found.files}
    assert {"model.onnx", "model.onnx.data", "genai_config.json", "tokenizer.json"} <= set(files)
    assert all(file_hash(files[file.path]) == file.sha256 for file in found.files)
    text = (tmp_path / "app" / EXPORT).read_text(encoding="utf-8")
    assert Export.model_validate_json(text) == found
    manifest = read_manifest(bundle)
    assert (
        found.size
        == sum(file.size for file in manifest.files if file.path.startswith("ort/"))
        < manifest.size
    )
    assert found.stop_ids == manifest.stop_ids and found.tokenizer is None


def test_nothing_is_written_over_and_force_replaces_an_export_alone(bundle, tmp_path):
    opened, place = api.Bundle(bundle), tmp_path / "app"
    opened.export(place)
    with pytest.raises(BundleError, match=r"the export .* exists") as caught:
        opened.export(place)
    assert "--force" in caught.value.hint
    (place / "extra").write_text("of an app")
    opened.export(place, force=True)
    assert not (place / "extra").exists()
    with pytest.raises(BundleError, match="is not an export"):
        opened.export(bundle, force=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="is not an export"):
        opened.export(tmp_path / "mine", force=True)


def test_a_damaged_bundle_exports_nothing(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    with open(copy / "ort" / "model.onnx", "r+b") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"ort/model\.onnx was changed"):
        api.Bundle(copy).export(tmp_path / "app")
    (copy / "ort" / "model.onnx").unlink()
    with pytest.raises(BundleError, match=r"ort/model\.onnx is missing"):
        api.Bundle(copy).export(tmp_path / "app")
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_the_command_exports_and_refuses(bundle, tmp_path):
    words = ["export", str(bundle), "--to", str(tmp_path / "app")]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 0 and "ort: " in found.stdout and " 6 files, " in found.stdout
    again = CliRunner().invoke(main, [*words, "--json", "--force"])
    assert json.loads(again.stdout)["artifact"] == "ort"
    wrong = CliRunner().invoke(main, [*words, "--soc", "sm8650", "--force"])
    assert wrong.exit_code == 2 and "ort has no files for 'sm8650'" in wrong.stderr
    none = CliRunner().invoke(main, [*words, "--artifact", "coreml", "--force"])
    assert none.exit_code == 1 and "no artifact 'coreml'" in none.stderr


def test_files_of_some_devices_are_chosen_and_the_rest_has_its_role(bundle):
    state = SequenceState(16, (), 1, 1, ())
    plain = Artifact("npu", "1", "x", (), (), (), state)
    made = BundledArtifact(
        **{name: getattr(plain, name) for name in plain.__dataclass_fields__},
        folder="npu",
        golden="proof/g",
        memory=MemoryPlan(16, 1, 1, 1),
        libraries={},
    )
    made = replace(
        made,
        ships={"": ("embed.*",), "a": ("a/*",), "b": ("b/*",)},
        sources=("*.onnx",),
        app_tokenizer=True,
    )
    apart = ("proof/npu/graph.onnx", "proof/npu/check.json", "proof/g")
    names = ("npu/embed.onnx", "npu/a/x.bin", "npu/b/x.bin", *apart)
    plain_files = [File(path=name, size=1, sha256="0" * 64) for name in (*names, "tokenizer/t")]
    files = with_roles(plain_files, [made], "tokenizer")
    assert [file.role for file in files] == [
        *("ships", "ships", "ships"),
        *("source", "proof", "proof"),
        "ships",
    ]

    manifest = read_manifest(bundle).model_copy(update={"files": files})

    def chosen(*devices):
        return [file.path for file in shipped(manifest, made, devices)]

    assert chosen() == ["npu/embed.onnx", "npu/a/x.bin", "npu/b/x.bin", "tokenizer/t"]
    assert chosen("a") == ["npu/embed.onnx", "npu/a/x.bin", "tokenizer/t"]
    with pytest.raises(UsageError, match="no files for 'c'") as caught:
        chosen("a", "c")
    assert caught.value.hint == "it has: a, b"
    with pytest.raises(UsageError, match="does not say which files"):
        shipped(manifest, replace(made, ships={}))
