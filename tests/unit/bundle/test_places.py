"""Where a bundle's files lie: what an app loads in the artifact's folder, all else in proof/."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import slmkit
from repeated_bytes import WINDOW, repeated_share
from slmkit.backend.artifact import PROOF, Artifact, SequenceState, file_of
from slmkit.bundle.manifest import MANIFEST, read_manifest
from slmkit.bundle.roles import set_apart, shipped
from slmkit.bundle.verify import verify
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from slmkit.workflows.recheck import recheck
from tiers import WHOLE
from tiny_models import ort_request, tiny_config, write_checkpoint

DEMO = os.environ.get("SLMKIT_DEMO")  # the bundle that `make demo` has just built
NPU = Artifact("npu", "1", "x", (), (), (), SequenceState(16, (), 1, 1, ()))
ONCE = 0.03  # of the windows of 32 bytes of codes and scales, at most, repeat by chance
# QNN's binaries repeat descriptions of their operations: 6 %. A second embedding would add 8 %.
ONCE_ON_HEXAGON = 0.08
WEIGHTS = (".bin", ".data", ".litertlm")


def written(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_no_app_loads_is_set_apart_under_the_same_names(tmp_path):
    bundle = written(tmp_path, "npu/a.bin", "npu/graph.onnx", "npu/checks/1.json", "tokenizer/t")
    made = Artifact(**{**vars(NPU), "ships": {"": ("*.bin",)}, "sources": ("*.onnx",)})
    set_apart(bundle, made)
    assert names(bundle / "npu") == ["a.bin"]
    assert names(bundle / PROOF) == ["npu", "npu/checks", "npu/checks/1.json", "npu/graph.onnx"]
    for name in ("a.bin", "graph.onnx", "checks/1.json"):
        assert file_of(bundle / "npu", name).read_text() == f"npu/{name}"


def test_an_artifact_that_does_not_say_what_it_ships_stays_as_it_was_written(tmp_path):
    bundle = written(tmp_path, "npu/a.bin", "npu/graph.onnx")
    set_apart(bundle, NPU)
    assert names(bundle) == ["npu", "npu/a.bin", "npu/graph.onnx"]


def test_a_file_is_found_where_a_backend_wrote_it(tmp_path):
    folder = written(tmp_path, "npu/graph.onnx") / "npu"
    assert file_of(folder, "graph.onnx") == folder / "graph.onnx"
    assert file_of(folder, "none") == tmp_path / PROOF / "npu" / "none"


def test_a_bundle_of_the_older_places_is_verified_and_proved_again(tmp_path):
    """Proof files of the whole bundle lay in parity/."""
    model = write_checkpoint(tmp_path / "tiny", tiny_config("llama"))
    folder = build(ort_request(model, "int4", tmp_path / "out"), Silent()).folder
    older = shutil.copytree(folder, tmp_path / "older")
    (older / PROOF).rename(older / "parity")
    text = (older / MANIFEST).read_text(encoding="utf-8").replace(f'"{PROOF}/', '"parity/')
    (older / MANIFEST).write_text(text, encoding="utf-8")
    assert verify(older) == verify(folder)
    now, then = (recheck(each, model, None, Silent()) for each in (folder, older))
    assert now.passed and then.passed
    assert now.quality is not None and now.quality == then.quality
    assert json.loads(text)["artifacts"][0]["golden"].startswith("parity/")


@pytest.mark.full(WHOLE)
@pytest.mark.parametrize(("target", "few"), [("android", "adreno"), ("ios", "apple")])
def test_no_weight_of_home_stands_twice_in_what_ships(tmp_path, target, few):
    """For one chip or GPU; the embedding, which the head reads too, is 11 % of the weights.

    The bundle for Android is CI's demo, where there is one.
    """
    options = {"mlc": {"gpus": [few]}}
    if target == "android":
        options["hexagon"] = {"soc": ["sm8650"]}
    built = DEMO if target == "android" else None
    place = Path(built or slmkit.build(target=target, options=options, out=tmp_path).path)
    manifest = read_manifest(place)
    for artifact in manifest.artifacts:
        devices = [name for name in artifact.ships if name][:1]
        files = [place / file.path for file in shipped(manifest, artifact, devices)]
        weights = [path for path in files if path.suffix in WEIGHTS]
        assert weights
        limit = ONCE_ON_HEXAGON if artifact.name == "hexagon" else ONCE
        assert repeated_share(weights) < limit, artifact.name


def test_a_weight_that_stands_twice_is_seen(tmp_path):
    weight = np.random.default_rng(0).integers(0, 256, 50_000, np.uint8)
    other = np.random.default_rng(1).integers(0, 256, 50_000, np.uint8)
    for name, parts in (("once", [weight]), ("twice", [other, weight[7:20_000]])):
        np.concatenate(parts).tofile(tmp_path / name)
    assert repeated_share([tmp_path / "once"]) == 0
    found = repeated_share([tmp_path / "once", tmp_path / "twice"])
    assert found == pytest.approx((20_000 - 7 - WINDOW) / 120_000, rel=0.01)
    np.zeros(10_000, np.uint8).tofile(tmp_path / "filling")
    assert repeated_share([tmp_path / "once", tmp_path / "filling"]) == 0
