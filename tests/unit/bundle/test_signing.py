"""Signatures of bundles: what was signed passes, everything else is refused in one sentence."""

from __future__ import annotations

import base64
import json
import shutil

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from command_line import slmkit
from slmkit.api import Bundle
from slmkit.bundle.manifest import MANIFEST, read_manifest, write_manifest
from slmkit.bundle.verify import SIGNATURE, list_files, verify
from slmkit.errors import BundleError
from tiny_bundles import ort_bundle

PEM = serialization.Encoding.PEM
PKCS8 = serialization.PrivateFormat.PKCS8
PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo


def written(folder, name, key, password=None):
    """A pair of files: NAME.pem and NAME.pub."""
    locked = serialization.BestAvailableEncryption(password) if password else None
    lock = locked or serialization.NoEncryption()
    (folder / f"{name}.pem").write_bytes(key.private_bytes(PEM, PKCS8, lock))
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(PEM, PUBLIC))


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    written(folder, "ours", ec.generate_private_key(ec.SECP256R1()))
    written(folder, "other", ec.generate_private_key(ec.SECP521R1()))
    written(folder, "locked", ec.generate_private_key(ec.SECP384R1()), b"open")
    written(folder, "coin", ec.generate_private_key(ec.SECP256K1()))
    written(folder, "rsa", rsa.generate_private_key(65537, 2048))
    (folder / "text").write_text("no key")
    return folder


@pytest.fixture(scope="module")
def signed(tmp_path_factory, keys):
    folder = tmp_path_factory.mktemp("made")
    bundle = ort_bundle(folder)
    count = Bundle(bundle).sign(keys / "ours.pem")
    assert count == len(read_manifest(bundle).files) + 1
    return bundle


@pytest.fixture
def bundle(signed, tmp_path):
    return shutil.copytree(signed, tmp_path / "moved")


def refused(bundle, key, said):
    with pytest.raises(BundleError, match=said) as caught:
        Bundle(bundle).verify(key)
    assert "\n" not in caught.value.message and caught.value.hint


def test_a_signed_bundle_passes_wherever_it_lies(bundle, keys):
    assert Bundle(bundle).verify(keys / "ours.pub") == len(read_manifest(bundle).files)
    assert "was signed with the key" in slmkit("verify", bundle, "--key", keys / "ours.pub").stdout
    found = json.loads(slmkit("verify", bundle, "--key", keys / "ours.pub", "--json").stdout)
    assert found["signature"] == "good"
    assert json.loads(slmkit("verify", bundle, "--json").stdout)["signature"] == "not checked"


def test_a_signature_is_an_in_toto_statement_of_every_file(bundle):
    envelope = json.loads((bundle / SIGNATURE).read_text())["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    found = {each["name"]: each["digest"] for each in statement["predicate"]["resources"]}
    assert found.pop(MANIFEST)
    assert found == {file.path: file.sha256 for file in read_manifest(bundle).files}


def test_a_changed_and_an_added_file_are_named(bundle, keys):
    with open(bundle / "USE.md", "a") as file:
        file.write("more")
    (bundle / "more.txt").write_text("more")
    refused(bundle, keys / "ours.pub", r"USE.md has \d+ bytes.*more.txt is not in the manifest")


@pytest.mark.parametrize("change", ["changed", "added", "git"])
def test_a_manifest_that_lists_a_changed_file_is_not_what_was_signed(bundle, keys, change):
    name = {"changed": "USE.md", "added": "more.txt", "git": ".gitignore"}[change]
    (bundle / name).write_text("more")
    manifest = read_manifest(bundle)
    write_manifest(manifest.model_copy(update={"files": list_files(bundle)}), bundle)
    verify(bundle)
    refused(bundle, keys / "ours.pub", "is not what was signed: its manifest was changed")


def test_another_key_a_missing_and_a_damaged_signature_are_refused(bundle, keys):
    refused(bundle, keys / "other.pub", "was not made with the key of .*other.pub")
    path = bundle / SIGNATURE
    values = json.loads(path.read_text())
    del values["verificationMaterial"]["publicKey"]["hint"]
    path.write_text(json.dumps(values))
    refused(bundle, keys / "other.pub", "was not made with the key of .*other.pub")
    values = json.loads(path.read_text())
    values["dsseEnvelope"]["payload"] = values["dsseEnvelope"]["payload"][:-8] + "fX19fX0K"
    path.write_text(json.dumps(values))
    refused(bundle, keys / "ours.pub", "was not made with the key of .*ours.pub")
    for text in ("", "{}", "[]", "null", '{"mediaType": 3}', "[" * 100_000):
        path.write_text(text)
        refused(bundle, keys / "ours.pub", "is damaged")
    path.unlink()
    refused(bundle, keys / "ours.pub", "is not signed: model.sig is missing")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sign", "--key", "ours.pub"), "is no private key"),
        (("sign", "--key", "text"), "is no private key"),
        (("sign", "--key", "rsa.pem"), "is no key of secp256r1"),
        (("sign", "--key", "coin.pem"), "is no key of secp256r1"),
        (("sign", "--key", "locked.pem"), "is encrypted"),
        (("sign", "--key", "ours.pem", "--password", "open"), "is not encrypted"),
        (("sign", "--key", "locked.pem", "--password", "shut"), "the password is wrong"),
        (("sign", "--key", "nowhere"), "cannot read the key"),
        (("verify", "--key", "ours.pem"), "is no public key"),
        (("verify", "--key", "rsa.pub"), "is no key of secp256r1"),
        (("verify", "--key", "nowhere"), "cannot read the key"),
    ],
)
def test_a_key_that_does_not_fit_is_one_sentence(bundle, keys, words, said):
    before = (bundle / SIGNATURE).read_bytes()
    command, option, key, *more = words
    failed = slmkit(command, bundle, option, keys / key, *more, expect=2)
    first, second = failed.stderr.splitlines()
    assert said in first and second.startswith("hint: ")
    assert (bundle / SIGNATURE).read_bytes() == before


def test_an_encrypted_key_signs_again_with_its_password(bundle, keys, monkeypatch):
    monkeypatch.setenv("SLMKIT_SIGN_PASSWORD", "open")
    said = json.loads(slmkit("sign", bundle, "--key", keys / "locked.pem", "--json").stdout)
    assert said["signature"] == str(bundle / SIGNATURE)
    assert Bundle(bundle).verify(keys / "locked.pub")
    refused(bundle, keys / "ours.pub", "was not made with the key")


def test_a_damaged_and_a_failed_bundle_are_not_signed(bundle, keys):
    manifest = read_manifest(bundle)
    write_manifest(manifest.model_copy(update={"failures": ("SNR 3 dB < 100",)}), bundle)
    assert "failed its proof" in slmkit("sign", bundle, "--key", keys / "ours.pem", expect=1).stderr
    write_manifest(manifest, bundle)
    (bundle / "more.txt").write_text("more")
    assert "more.txt" in slmkit("sign", bundle, "--key", keys / "ours.pem", expect=1).stderr


def test_without_the_library_the_hint_installs_it(bundle, keys, monkeypatch, from_index):
    monkeypatch.setattr("slmkit.backend.registry._version", lambda name: None)
    failed = slmkit("verify", bundle, "--key", keys / "ours.pub", expect=5)
    assert 'pip install "slmkit[sign]"' in failed.stderr
