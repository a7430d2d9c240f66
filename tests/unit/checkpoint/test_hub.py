"""Models of the hub by name: from a hub on this machine, over HTTP, through huggingface_hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from local_hub import COMMIT, LocalHub
from packed_files import gptq, pack_folder
from slmkit.checkpoint.places.hub import HubModel, hub_model, needed, repository_name
from slmkit.errors import CheckpointError
from tiny_models import tiny_config, write_checkpoint

CLOSED = "http://127.0.0.1:9"  # nobody listens on the port "discard"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    write_checkpoint(folder, tiny_config("llama"))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "consolidated.safetensors").write_bytes(b"another copy")
    served = LocalHub({"org/tiny": folder})
    yield served
    served.close()


def slmkit(home, endpoint, *words, **more):
    """A command in a process of its own: the library reads its settings when it is imported."""
    own = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    return subprocess.run(
        [sys.executable, "-m", "slmkit", *words],
        env={**os.environ, **own, **more},
        capture_output=True,
        text=True,
    )


def test_a_model_is_fetched_once_with_the_needed_files_and_read_without_network(hub, tmp_path):
    first = slmkit(tmp_path, hub.endpoint, "inspect", "org/tiny", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["name"] == "tiny"
    assert not hub.fetched() & {"pytorch_model.bin", "consolidated.safetensors"}
    assert "model.safetensors" in hub.fetched()
    for endpoint, more in ((CLOSED, {}), (hub.endpoint, {"HF_HUB_OFFLINE": "1"})):
        again = slmkit(tmp_path, endpoint, "inspect", "org/tiny", "--json", **more)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == json.loads(first.stdout)


@pytest.mark.parametrize(
    ("name", "endpoint", "sentence"),
    [
        ("org/none", "", "there is no folder org/none, and no such model on the hub"),
        ("org/tiny@v9", "", "org/tiny has no revision 'v9'"),
        ("org/tiny", CLOSED, "not fetched before, and the hub cannot be reached"),
    ],
)
def test_what_cannot_be_had_is_told_in_a_sentence(hub, tmp_path, name, endpoint, sentence):
    found = slmkit(tmp_path, endpoint or hub.endpoint, "inspect", name)
    assert found.returncode == 1
    assert sentence in found.stderr and "hint:" in found.stderr
    assert "Traceback" not in found.stderr


def test_names_of_models_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)
    assert hub_model(path("org/name")) == HubModel("org/name")
    assert hub_model(path("org/na.me-1@v1.0")) == HubModel("org/na.me-1", "v1.0")
    file = hub_model(path("org/name/sub/q4.gguf@main"))
    assert file == HubModel("org/name", "main", "sub/q4.gguf")
    for other in ("name", "/org/name", "../name", "a/b/c", "org/name with spaces", "files/q4.gguf"):
        assert hub_model(path(other)) is None
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert hub_model(path("org/name")) is None


def test_a_folder_of_the_cache_has_the_repository_s_name(tmp_path):
    folder = tmp_path / "models--org--some-name" / "snapshots" / COMMIT
    assert repository_name(folder) == "some-name"
    assert repository_name(tmp_path / "models--org--x") is None


GGUF = ["README.md", "q4.gguf", "q8.gguf"]


def test_the_files_of_one_format_are_chosen():
    def index(commit):
        return {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors", "c": "../x"}}

    model = HubModel("org/name")
    shards = ["config.json", "model.safetensors.index.json", "m-1.safetensors", "m-2.safetensors"]
    names = [*shards, "consolidated.safetensors", "original/x.pth", "tokenizer.json", "q4.gguf"]
    assert set(needed(model, COMMIT, names, index)) == {*shards, "tokenizer.json"}
    with pytest.raises(CheckpointError, match=r"several GGUF files: q4\.gguf, q8\.gguf"):
        needed(model, COMMIT, GGUF, index)
    one = HubModel("org/name", None, "q4.gguf")
    assert needed(one, COMMIT, GGUF, index) == ["README.md", "q4.gguf"]
    parts = ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf"]
    first = HubModel("org/name", None, parts[0])
    assert needed(first, COMMIT, parts, index) == parts
    assert needed(model, COMMIT, parts, index) == parts
    with pytest.raises(CheckpointError, match="no safetensors and no GGUF"):
        needed(model, COMMIT, ["pytorch_model.bin", "config.json"], index)


def test_a_plan_reads_headers_alone(hub, tmp_path):
    from gguf_files import write_checkpoint_as_gguf

    pytest.importorskip("gguf", reason="GGUF files need the package gguf")
    folder = tmp_path / "wide"
    changes = {"hidden_size": 256, "intermediate_size": 8192, "vocab_size": 320}
    write_checkpoint(folder, {**tiny_config("llama"), **changes})
    files = tmp_path / "files"
    files.mkdir()
    write_checkpoint_as_gguf(folder, files / "wide-q4.gguf", "Q4_0")
    packed = shutil.copytree(folder, tmp_path / "packed")
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    pack_folder(packed, gptq, settings)
    served = LocalHub({"org/wide": folder, "org/wide-gguf": files, "org/wide-gptq": packed})
    stored = {"org/wide": [], "org/wide-gguf": ["Q4_0"], "org/wide-gptq": ["GPTQ int4 g32"]}
    try:
        for name, codes in stored.items():
            served.asked.clear()
            words = ("plan", "--model", name, "--target", "android", "--artifacts", "ort", "--json")
            found = slmkit(tmp_path / "home", served.endpoint, *words)
            assert found.returncode == 0, found.stderr + found.stdout
            values = json.loads(found.stdout)
            assert [row["format"] for row in values["imports"]] == codes
            assert all(row["artifacts"] == {"ort": "exact"} for row in values["imports"])
            assert values["notices"][0].startswith("by headers alone")
            large = [range_ for path, range_ in served.asked if path.endswith(ENDINGS)]
            assert large and all(range_ for range_ in large), "no file of weights is read whole"
            size = (files / "wide-q4.gguf").stat().st_size
            assert sum(map(asked_bytes, large)) < size, name
    finally:
        served.close()


def asked_bytes(range_: str) -> int:
    start, stop = range_.removeprefix("bytes=").split("-")
    return int(stop) - int(start) + 1


ENDINGS = (".safetensors", ".gguf")
