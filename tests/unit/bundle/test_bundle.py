"""Bundles on disk: every damage is found and named, and paths never leave the folder."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.bundle.folder import OLDER, written
from slmkit.bundle.manifest import MANIFEST, SCHEMA, Manifest, inside, read_manifest, schema
from slmkit.bundle.verify import verify
from slmkit.errors import BundleError
from slmkit.inference.load import load
from slmkit.system.progress import Silent
from slmkit.system.scratch import LOCK
from slmkit.workflows.recheck import recheck
from tiny_bundles import MODEL, ort_bundle
from tiny_models import tiny_config, write_checkpoint


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("original"))


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


def replaced_by_link(bundle, outside):
    (bundle / "ort").rename(outside)
    (bundle / "ort").symlink_to(outside)


def linked_folder(bundle, outside):
    outside.mkdir()
    (bundle / "more").symlink_to(outside)


ADDED = {
    "a folder replaced by a link": (replaced_by_link, "ort/model.onnx is missing"),
    "a link to a folder": (linked_folder, "more is not in the manifest"),
    "a link to nothing": (
        lambda bundle, outside: (bundle / "more").symlink_to(outside),
        "more is not in the manifest",
    ),
    "an empty folder": (lambda bundle, _: (bundle / "ort" / "e").mkdir(), "ort/e is not in"),
    "a pipe": (lambda bundle, _: os.mkfifo(bundle / "ort" / "p"), "ort/p is not in"),
}


@pytest.mark.parametrize(("add", "said"), ADDED.values(), ids=ADDED)
def test_nothing_of_any_kind_may_be_added(bundle, tmp_path, add, said):
    add(bundle, tmp_path / "outside")
    with pytest.raises(BundleError, match=said):
        verify(bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda bundle: flip(bundle / "ort" / "model.onnx.data", 5), "data was changed"),
        (lambda bundle: flip(bundle / "tokenizer" / "tokenizer.json", 5), "json was changed"),
        (lambda bundle: (bundle / "ort" / "model.onnx").unlink(), "model.onnx is missing"),
        (
            lambda bundle: (bundle / "tokenizer" / "chat_template.jinja").write_text("x"),
            "tokenizer/chat_template.jinja is not in the manifest",
        ),
        (lambda bundle: replaced_by_link(bundle, bundle.parent / "o"), "ort is not in the manif"),
    ],
)
def test_a_changed_bundle_does_not_run(bundle, change, said):
    assert load(bundle).generate("hi", max_tokens=1) is not None
    change(bundle)
    with pytest.raises(BundleError, match=said):
        load(bundle)


def test_what_is_not_loaded_is_not_asked_for(bundle):
    (bundle / "proof" / "held_out.json").unlink()
    load(bundle)


def test_files_are_hashed_once_until_they_change(bundle, monkeypatch):
    load(bundle)
    with monkeypatch.context() as changed:
        changed.setattr("slmkit.bundle.verify.file_hash", lambda path: pytest.fail("it was read"))
        load(bundle)
    path = bundle / "ort" / "model.onnx.data"
    before = path.stat()
    flip(path, 5)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BundleError, match="was changed"):
        load(bundle)


@pytest.mark.parametrize("path", ["/etc/passwd", "../../model.onnx", "a/../../b", "\\\\host\\x"])
def test_facts_cannot_name_files_outside(bundle, path):
    values = json.loads((bundle / MANIFEST).read_text())
    values["artifacts"][0]["facts"]["model"] = path
    (bundle / MANIFEST).write_text(json.dumps(values))
    for read in (verify, load):
        with pytest.raises(BundleError, match="does not stay in the bundle"):
            read(bundle)


def test_a_manifest_says_everything_once(bundle):
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text('{"target": "ios",' + text[1:])
    with pytest.raises(BundleError, match="the key 'target' occurs twice"):
        read_manifest(bundle)


def test_a_manifest_that_is_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(BundleError, match="is not a bundle"):
        read_manifest(tmp_path)


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
    found = recheck(bundle, original.parent / MODEL, None, Silent()).comparisons
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
