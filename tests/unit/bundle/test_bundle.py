"""Bundles on disk: every damage is found and named, and paths never leave the folder."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.bundle.folder import OLDER, verify, written
from slmkit.bundle.manifest import MANIFEST, SCHEMA, Manifest, inside, read_manifest, schema
from slmkit.errors import BundleError
from slmkit.system.progress import Silent
from slmkit.system.scratch import LOCK
from slmkit.workflows.build import build
from slmkit.workflows.recheck import recheck
from tiny_models import ort_request, tiny_config, write_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    model = write_checkpoint(folder / "model", tiny_config("llama"))
    return build(ort_request(model, "int4", folder), Silent()).folder


@pytest.fixture
def bundle(original, tmp_path):
    return shutil.copytree(original, tmp_path / "bundle")


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["ort/model.onnx", "ort/model.onnx.data", "tokenizer/tokenizer.json"]
)
def test_a_flipped_bit_is_found(bundle, name):
    flip(bundle / name, 100)
    with pytest.raises(BundleError, match=f"{name} was changed"):
        verify(bundle)


def test_missing_longer_and_unknown_files_are_all_named(bundle):
    (bundle / "ort" / "genai_config.json").unlink()
    with open(bundle / "ort" / "model.onnx", "ab") as file:
        file.write(b"more")
    (bundle / "virus.exe").write_bytes(b"")
    with pytest.raises(BundleError) as caught:
        verify(bundle)
    for said in ("genai_config.json is missing", "model.onnx has", "virus.exe is not in"):
        assert said in caught.value.message


def test_a_link_out_of_the_bundle_is_not_followed(bundle, tmp_path):
    outside = tmp_path / "outside"
    (bundle / "ort" / "model.onnx").rename(outside)
    (bundle / "ort" / "model.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match=r"ort/model.onnx is missing"):
        verify(bundle)


def test_parity_refuses_a_damaged_bundle_before_running_it(bundle):
    flip(bundle / "ort" / "model.onnx.data", 5)
    with pytest.raises(BundleError, match="was changed"):
        recheck(bundle, None, None, Silent())


def test_parity_refuses_another_checkpoint(bundle, tmp_path):
    other = write_checkpoint(tmp_path / "other", tiny_config("llama"), seed=1)
    with pytest.raises(BundleError, match="is not the checkpoint"):
        recheck(bundle, other, None, Silent())


def test_parity_with_the_checkpoint_repeats_the_build(original, bundle):
    recorded = read_manifest(bundle).parity
    found = recheck(bundle, original.parent / "model", None, Silent()).comparisons
    assert [each.metrics for each in found] == [each.metrics for each in recorded]


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "C:\\x", "", "a\\b"])
def test_a_manifest_cannot_name_files_outside(bundle, path):
    values = json.loads((bundle / MANIFEST).read_text())
    values["files"][0]["path"] = path
    (bundle / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(BundleError, match="does not stay in the bundle"):
        verify(bundle)


@given(st.text())
def test_an_accepted_path_stays_inside(tmp_path_factory, path):
    base = tmp_path_factory.getbasetemp()
    try:
        name = inside(path)
    except ValueError:
        return
    if "\0" not in name:
        assert (base / name).resolve().is_relative_to(base.resolve())


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.lists(st.text())))
def test_a_manifest_of_anything_is_one_sentence(tmp_path_factory, values):
    folder = tmp_path_factory.mktemp("any")
    (folder / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(BundleError, match="is damaged"):
        read_manifest(folder)


def test_the_published_schema_is_the_code_s(request):
    text = json.dumps(schema(), indent=2) + "\n"
    if request.config.getoption("--write-golden"):
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text


def test_a_manifest_satisfies_the_published_schema(bundle):
    import jsonschema

    values = json.loads((bundle / MANIFEST).read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(values)
    assert Manifest.model_validate_json(json.dumps(values)).target == "android"


def test_a_failed_replacement_keeps_the_older_bundle(bundle):
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(RuntimeError), written(bundle, force=True) as folder:
        (folder / "half").write_text("done")
        raise RuntimeError
    assert (bundle / MANIFEST).read_bytes() == before
    assert list(bundle.parent.iterdir()) == [bundle]


@pytest.mark.parametrize("atomic", [True, False])
def test_a_replacement_takes_the_place_whole(bundle, atomic, monkeypatch):
    if not atomic:
        monkeypatch.setattr("slmkit.bundle.folder._exchange", lambda first, second: False)
    with written(bundle, force=True) as folder:
        (folder / MANIFEST).write_text("{}")
    assert [path.name for path in bundle.iterdir()] == [MANIFEST]
    assert list(bundle.parent.iterdir()) == [bundle]


def test_a_bundle_moved_aside_by_a_killed_build_is_put_back(bundle):
    left = bundle.parent / f".{bundle.name}.building-0"
    left.mkdir()
    (left / LOCK).touch()
    bundle.rename(left / OLDER)
    with pytest.raises(RuntimeError), written(bundle, force=True):
        raise RuntimeError
    verify(bundle)
