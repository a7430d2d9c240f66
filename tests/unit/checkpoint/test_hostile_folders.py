"""Checkpoint folders of strangers: every file is read, or refused in one sentence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.model_card import license_of
from slmkit.errors import CheckpointError, SlmkitError
from slmkit.planning.calibration import calibration_texts
from tiny_models import tiny_config, write_checkpoint

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("made") / "tiny", tiny_config("llama"))


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tiny")


def hub_snapshot(folder: Path, cache: Path) -> Path:
    """The folder as a Hugging Face cache has it: links into ``blobs``."""
    blobs = cache / "models--acme--tiny" / "blobs"
    snapshot = blobs.parent / "snapshots" / "0123abcd"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    return snapshot


@pytest.mark.parametrize("name", FILES)
def test_a_link_out_of_the_folder_is_refused_by_name(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "outside")
    (folder / name).symlink_to("../outside")
    with pytest.raises(CheckpointError, match=f"{name} is a link out of") as caught:
        open_checkpoint(folder)
    assert caught.value.hint


def test_a_link_to_calibration_text_outside_is_refused(folder, tmp_path):
    (tmp_path / "secret").write_text('{"text": "the password"}\n')
    (folder / "calibration.jsonl").unlink(missing_ok=True)
    (folder / "calibration.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"calibration\.jsonl is a link out of"):
        calibration_texts(open_checkpoint(folder), None)


def test_links_inside_the_folder_and_of_a_hub_cache_are_followed(folder, tmp_path):
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "w")
    (folder / "model.safetensors").symlink_to("weights/w")
    assert open_checkpoint(folder).shards.fingerprint
    (folder / "model.safetensors").unlink()
    (folder / "weights" / "w").rename(folder / "model.safetensors")
    (folder / "weights").rmdir()
    snapshot = hub_snapshot(folder, tmp_path / "hub")
    assert open_checkpoint(snapshot).shards.fingerprint
    (tmp_path / "alias").symlink_to(snapshot)  # a link to the folder itself is the user's choice
    assert open_checkpoint(tmp_path / "alias").shards.fingerprint
    (snapshot / "tokenizer_config.json").unlink()
    (snapshot / "tokenizer_config.json").symlink_to(tmp_path / "elsewhere" / "blobs" / "1")
    with pytest.raises(CheckpointError, match="is a link out of"):
        open_checkpoint(snapshot)


@pytest.mark.parametrize("name", [*FILES, "generation_config.json"])
def test_a_pipe_is_not_waited_for(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="is not a plain file"):
        open_checkpoint(folder)


def test_a_model_card_that_is_a_pipe_says_nothing(folder):
    os.mkfifo(folder / "README.md")
    assert license_of(folder) == ""


def test_a_config_of_a_hundred_megabytes_is_not_read(folder):
    with open(folder / "config.json", "r+b") as file:
        file.truncate(100_000_000)
    with pytest.raises(CheckpointError, match="at most 67108864 are read"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_key_that_occurs_twice_is_refused(folder, name):
    text = (folder / name).read_text()
    key = next(iter(json.loads(text)))
    (folder / name).write_text(f'{{"{key}": null,{text.lstrip()[1:]}')
    with pytest.raises(CheckpointError, match=f"the key '{key}' occurs twice"):
        open_checkpoint(folder)


def opened_or_refused(folder: Path) -> None:
    """Nothing but a model, or a sentence."""
    try:
        checkpoint = open_checkpoint(folder)
        checkpoint.tokenizer.prompt_ids("hi")
    except SlmkitError as error:
        assert "\n" not in error.message


@given(data=st.data(), name=st.sampled_from(FILES))
@settings(max_examples=60)
def test_damaged_bytes_are_a_model_or_one_sentence(made, tmp_path_factory, data, name):
    folder = shutil.copytree(made, tmp_path_factory.mktemp("damaged") / "tiny")
    whole = bytearray((folder / name).read_bytes())
    start = data.draw(st.integers(0, min(len(whole), 4000)))
    piece = data.draw(st.binary(max_size=6))
    kind = data.draw(st.sampled_from(["over", "in", "cut"]))
    end = {"over": start + len(piece), "in": start, "cut": len(whole)}[kind]
    (folder / name).write_bytes(bytes(whole[:start]) + piece + bytes(whole[end:]))
    opened_or_refused(folder)


@given(data=st.data(), name=st.sampled_from([each for each in FILES if each.endswith("json")]))
@settings(max_examples=60)
def test_values_of_any_kind_are_a_model_or_one_sentence(made, tmp_path_factory, data, name):
    folder = shutil.copytree(made, tmp_path_factory.mktemp("changed") / "tiny")
    values = json.loads((folder / name).read_text())
    place = values
    while isinstance(place, dict) and place:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(VALUES)
        break
    (folder / name).write_text(json.dumps(values))
    opened_or_refused(folder)
