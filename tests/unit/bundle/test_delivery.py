"""Delivery forms: what the stores' tools take, within the stores' limits, or nothing."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from click.testing import CliRunner

from slmkit import api
from slmkit.bundle.delivery import APP_LIMIT, HOSTED_LIMIT, PACK_LIMIT, pack_name, plan_delivery
from slmkit.bundle.export import EXPORT, Export
from slmkit.bundle.manifest import MANIFEST, File, read_manifest, write_manifest
from slmkit.bundle.roles import shipped
from slmkit.bundle.verify import list_files
from slmkit.cli.main import main
from slmkit.errors import RefusedError, UsageError
from slmkit.system.cache import file_hash
from tiny_bundles import ort_bundle

CONFIG = "{http://schemas.android.com/apk/config}"
ASSETS = "src/main/assets"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle for android, whose artifact has files of its own for two chips."""
    made = ort_bundle(tmp_path_factory.mktemp("made"))
    for chip in ("sm1", "sm2"):
        (made / "ort" / chip).mkdir()
        (made / "ort" / chip / "graph.bin").write_text(chip)
    (made / "ort" / "code.tar").write_text("linked")
    return rewritten(
        made,
        ships={"": ("*.*",), "sm1": ("sm1/*",), "sm2": ("sm2/*",)},
        soc_models={"sm1": ("SM1", "SM1-AC"), "sm2": ("SM2",)},
        linked=("*.tar",),
    )


def rewritten(folder, target=None, **changes):
    """The bundle with other facts; patterns with dots leave folders of chips to the chips."""
    manifest = read_manifest(folder)
    (artifact,) = manifest.artifacts
    if "ships" in changes:
        names = ("model.*", "*.json", "*.jinja", "*.tar")
        changes["ships"] = {**changes["ships"], "": names}
    found = {
        "artifacts": (replace(artifact, **changes),),
        "files": list_files(folder),
        "target": target or manifest.target,
    }
    (folder / MANIFEST).unlink()
    write_manifest(manifest.model_copy(update=found), folder)
    return folder


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_an_ai_pack_has_a_folder_for_each_chip_and_play_is_told_of_them(bundle, tmp_path):
    found = api.Bundle(bundle).export(tmp_path / "app", form="ai-pack")
    pack = tmp_path / "app" / "tiny_ort"
    gradle = (pack / "build.gradle.kts").read_text()
    assert 'id("com.android.ai-pack")' in gradle and 'packName = "tiny_ort"' in gradle
    one, two = (pack / ASSETS / f"model#group_sm{number}" for number in (1, 2))
    assert names(one) >= {"model.onnx", "model.onnx.data", "sm1/graph.bin", EXPORT}
    assert {name.replace("sm2/", "sm1/") for name in names(two)} == names(one)
    text = (tmp_path / "app" / "device_targeting_configuration.xml").read_text()
    groups = ET.fromstring(text)  # noqa: S314 - written just now
    assert groups.tag == f"{CONFIG}device-targeting-config"
    assert [group.get("name") for group in groups] == ["sm1", "sm2"]
    for group in groups:
        assert len(group) <= 5  # device selectors that Play takes
        chips = [chip for selector in group for chip in selector]
        assert {chip.tag for chip in chips} == {f"{CONFIG}system-on-chip"}
        assert {chip.get("manufacturer") for chip in chips} == {"QTI", "Qualcomm"}
    first = {chip.get("model") for selector in groups[0] for chip in selector}
    assert first == {"SM1", "SM1-AC"}
    lines = (tmp_path / "app" / "DELIVERY.md").read_text()
    assert 'include(":tiny_ort")' in lines and "#" not in lines.partition("```kotlin")[2][:60]
    assert "enableDeviceTargetingConfigApi=true" in lines
    for file in found.files:
        assert file_hash(tmp_path / "app" / file.path) == file.sha256
    assert names(tmp_path / "app" / "linked") == {"code.tar"}


def test_each_folder_of_a_model_is_an_export_by_itself(bundle, tmp_path):
    api.Bundle(bundle).export(tmp_path / "app", form="ai-pack")
    folder = tmp_path / "app" / "tiny_ort" / ASSETS / "model#group_sm2"
    inner = Export.model_validate_json((folder / EXPORT).read_text())
    assert inner.devices == ("sm2",) and inner.form == "plain"
    assert {file.path for file in inner.files} == names(folder) - {EXPORT}
    for file in inner.files:
        assert file_hash(folder / file.path) == file.sha256


def test_without_chips_there_is_one_folder_and_nothing_to_target(bundle, tmp_path):
    plain = rewritten(shutil.copytree(bundle, tmp_path / "plain"), soc_models={})
    api.Bundle(plain).export(tmp_path / "app", form="ai-pack")
    assert not (tmp_path / "app" / "device_targeting_configuration.xml").exists()
    folder = tmp_path / "app" / "tiny_ort" / ASSETS / "model"
    assert names(folder) >= {"model.onnx", "sm1/graph.bin", "sm2/graph.bin"}
    assert "deviceTargetingConfig" not in (tmp_path / "app" / "DELIVERY.md").read_text()


def test_background_assets_have_the_manifest_of_apple_s_tool(bundle, tmp_path):
    apple = rewritten(shutil.copytree(bundle, tmp_path / "ios"), target="ios")
    api.Bundle(apple).export(tmp_path / "app", form="background-assets")
    found = json.loads((tmp_path / "app" / "manifest.json").read_text())
    assert found == {
        "assetPackID": "tiny_ort",
        "downloadPolicy": {"onDemand": {}},
        "fileSelectors": [{"directory": "model"}],
        "platforms": ["iOS"],
    }
    assert "model.onnx" in names(tmp_path / "app" / "model")


def test_a_form_of_another_platform_is_refused_before_anything_is_written(bundle, tmp_path):
    words = ["export", str(bundle), "--to", str(tmp_path / "app"), "--as"]
    for form, said in (
        ("background-assets", "background-assets is for ios, and the bundle for android"),
        ("zip", "there is no delivery form 'zip'"),
    ):
        found = CliRunner().invoke(main, [*words, form])
        assert found.exit_code == 2 and said in found.stderr
    assert not (tmp_path / "app").exists()


def planned(bundle, form, sizes, devices=("",)):
    manifest = read_manifest(bundle)
    (artifact,) = manifest.artifacts
    files = tuple(
        File(path=f"ort/{at}.bin", size=size, sha256="0" * 64) for at, size in enumerate(sizes)
    )
    return plan_delivery(form, manifest, artifact, dict.fromkeys(devices, files))


def test_files_beyond_one_pack_go_to_the_next(bundle):
    sizes = (PACK_LIMIT, 1, PACK_LIMIT - 1, 5)
    found = planned(bundle, "ai-pack", sizes, ("sm1", "sm2"))
    packs = [(folder.path.split("/")[0], len(folder.files)) for folder in found.folders[:3]]
    assert packs == [("tiny_ort", 1), ("tiny_ort_2", 2), ("tiny_ort_3", 1)]
    assert [folder.path.split("/")[0] for folder in found.folders[3:]] == [
        name for name, _ in packs
    ]
    text = (found.texts or {})["DELIVERY.md"]
    assert 'assetPacks += listOf(":tiny_ort", ":tiny_ort_2", ":tiny_ort_3")' in text


@pytest.mark.parametrize(
    ("form", "sizes", "said"),
    [
        (
            "ai-pack",
            (PACK_LIMIT + 10**7,),
            r"ort/0\.bin has 1\.51 GB.*a pack takes at most 1\.5 GB",
        ),
        ("ai-pack", (PACK_LIMIT,) * 3, r"4\.50 GB.*Google Play takes at most 4 GB an app"),
        ("background-assets", (HOSTED_LIMIT + 10**7,), r"200\.01 GB.*at most 200 GB an app"),
    ],
)
def test_what_passes_a_store_s_limit_is_refused_with_the_numbers(bundle, form, sizes, said):
    with pytest.raises(RefusedError, match=said):
        planned(bundle, form, sizes)
    assert sum((PACK_LIMIT,) * 2) < APP_LIMIT


def test_a_pack_s_name_is_one_that_play_takes(bundle):
    manifest = read_manifest(bundle)
    (artifact,) = manifest.artifacts
    for name in ("Qwen2.5-0.5B", "7b", "été", "--", "a b"):
        model = manifest.model.model_copy(update={"name": name})
        found = pack_name(manifest.model_copy(update={"model": model}), artifact)
        assert re.fullmatch(r"[a-z][a-z0-9_]*", found)


def test_an_unknown_device_is_refused_in_every_form(bundle, tmp_path):
    with pytest.raises(UsageError, match="no files for 'sm3'"):
        api.Bundle(bundle).export(tmp_path / "app", devices=["sm3"], form="ai-pack")
    manifest = read_manifest(bundle)
    assert len(shipped(manifest, manifest.artifacts[0], ["sm1"])) > 3
