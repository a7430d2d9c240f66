"""Bills of materials: valid by their own libraries, and nothing of the manifest is left out."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from slmkit import api
from slmkit.backend.registry import declarations
from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.parts import parts_of
from slmkit.bundle.roles import shipped
from slmkit.bundle.sbom import license_of_text, spdx_licenses
from slmkit.cli.main import main
from slmkit.errors import MissingPackageError, UsageError
from tiny_bundles import ort_bundle

pytest.importorskip("spdx_tools", reason="the extra sbom is not installed")
pytest.importorskip("cyclonedx", reason="the extra sbom is not installed")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


def test_the_parts_are_the_model_what_ships_and_what_made_it(bundle):
    manifest = read_manifest(bundle)
    parts = parts_of(manifest, "MIT")
    (artifact,) = manifest.artifacts
    files = {part.name: part.sha256 for part in parts if part.kind == "file"}
    assert files == {file.path: file.sha256 for file in shipped(manifest, artifact)}
    tools = {part.name: part.version for part in parts if part.kind == "tool"}
    assert tools == {name: found for name, found in artifact.libraries.items() if found}
    (runtime,) = [part for part in parts if part.kind == "runtime"]
    assert runtime.purl.endswith(f"@{artifact.libraries['onnxruntime']}")
    (model,) = [part for part in parts if part.kind == "model"]
    assert (model.license, model.sha256) == ("MIT", manifest.model.checkpoint_sha256)


def test_spdx_reads_it_again(bundle, tmp_path):
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    place = tmp_path / "bundle.spdx.json"
    place.write_text(api.Bundle(bundle).sbom("spdx", model_license="gemma terms of use"))
    document = parse_file(str(place))
    assert validate_full_spdx_document(document) == []
    assert len(document.packages) == 1 + len(parts_of(read_manifest(bundle)))
    unknown = {each.license_id: each.extracted_text for each in document.extracted_licensing_info}
    assert unknown["LicenseRef-gemma-terms-of-use"] == "gemma terms of use"
    kinds = {each.relationship_type.name for each in document.relationships}
    assert kinds == {
        "DESCRIBES", "GENERATED_FROM", "RUNTIME_DEPENDENCY_OF", "BUILD_TOOL_OF", "CONTAINS",
    }  # fmt: skip


def test_cyclonedx_reads_it_again(bundle):
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = api.Bundle(bundle).sbom("cyclonedx", model_license="Apache-2.0")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = Bom.from_json(json.loads(text))
    assert len(bom.components) == len(parts_of(read_manifest(bundle)))
    (model,) = [each for each in bom.components if each.type.value == "machine-learning-model"]
    assert [each.value for each in model.licenses] == ["Apache-2.0"]
    assert {each.scope.value for each in bom.components} == {"required", "excluded"}


@pytest.mark.parametrize("form", ["spdx", "cyclonedx"])
def test_the_same_bundle_at_the_same_time_gives_the_same_bytes(bundle, form, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    one, other = (api.Bundle(bundle).sbom(form) for _ in range(2))
    assert one == other and "2023-11-14T22:13:20" in one


def test_the_license_is_that_of_the_model_card(bundle, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    found = json.loads(api.Bundle(bundle).sbom("spdx", model=tmp_path))
    declared = {each["SPDXID"]: each["licenseDeclared"] for each in found["packages"]}
    assert declared["SPDXRef-model-0"] == "Apache-2.0"
    silent = json.loads(api.Bundle(bundle).sbom("spdx"))
    declared = {each["SPDXID"]: each.get("licenseDeclared") for each in silent["packages"]}
    assert declared["SPDXRef-model-0"] in (None, "NOASSERTION")


@given(st.text(max_size=90))
def test_any_text_becomes_a_license_of_spdx_or_nothing(text):
    found = license_of_text(text)
    assert found == "" or spdx_licenses().parse(found) is not None
    assert found.isascii() and license_of_text(found) in (found, f"LicenseRef-{found}")


def test_every_runtime_has_an_address_of_packages():
    from packageurl import PackageURL

    runtimes = [each for known in declarations().values() for each in known.runtimes]
    assert runtimes
    for each in runtimes:
        assert (
            PackageURL.from_string(each.purl).name and license_of_text(each.license) == each.license
        )


def test_missing_packages_and_unknown_forms_are_said(bundle, monkeypatch):
    with pytest.raises(UsageError, match="no form 'text'"):
        api.Bundle(bundle).sbom("text")
    monkeypatch.setattr("slmkit.backend.registry._version", lambda name: None)
    with pytest.raises(MissingPackageError, match="cyclonedx-python-lib, spdx-tools"):
        api.Bundle(bundle).sbom("spdx")


def slmkit(*words, expect=0):
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == expect, result.output + result.stderr
    return result


def test_the_command(bundle, tmp_path):
    assert json.loads(slmkit("sbom", bundle).stdout)["spdxVersion"] == "SPDX-2.3"
    place = tmp_path / "bom.json"
    words = ("sbom", bundle, "--as", "cyclonedx", "--license", "MIT", "--to", place)
    slmkit(*words)
    assert json.loads(place.read_text())["specVersion"] == "1.6"
    assert "exists" in slmkit(*words, expect=2).stderr
    assert "is not a bundle" in slmkit("sbom", tmp_path, expect=1).stderr
    assert "no place" in slmkit("sbom", bundle, "--to", tmp_path, expect=2).stderr
