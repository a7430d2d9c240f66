"""Signatures of bundles, in the format of OpenSSF Model Signing, with keys of elliptic curves.

The signature is a file in the bundle, ``model.sig``: a DSSE envelope around an in-toto statement
with the SHA-256 of every file. Any verifier of that format reads it. Nothing is asked of a network.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from slmkit.backend.registry import require_extra
from slmkit.bundle.manifest import LONGEST, read_manifest
from slmkit.bundle.verify import SIGNATURE, verify
from slmkit.errors import BundleError, UsageError

CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those that the format allows
LARGEST_KEY = 1 << 16  # bytes
MAKE = "openssl ecparam -name prime256v1 -genkey -noout -out key.pem makes one"


def sign(folder: Path, key: Path, password: str | None = None) -> int:
    """Sign a bundle with a private key (PEM, of an elliptic curve); how many files are signed.

    An older signature is replaced. Raises BundleError for a damaged or failed bundle, UsageError
    for a key that cannot be used, MissingPackageError.
    """
    require_extra("a signature", "sign", "model-signing", "pyopenssl")
    read_manifest(folder).refuse_failed()
    count = verify(folder)
    _private_key(key, password)
    library = _library()
    new = folder / f".{SIGNATURE}.new"
    hashed = library.hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    # The library hands the password to cryptography as it is, which wants bytes.
    secret: Any = None if password is None else password.encode()
    config = library.signing.Config().set_hashing_config(hashed)
    try:
        config.use_elliptic_key_signer(private_key=key, password=secret).sign(folder, new)
        new.replace(folder / SIGNATURE)
    finally:
        new.unlink(missing_ok=True)
    return count + 1  # and the manifest


def verify_signature(folder: Path, key: Path) -> str:
    """Check a bundle against its signature and a public key (PEM); the SHA-256 of the key.

    Its files must be those of its manifest, as ``verify`` finds them. Raises BundleError,
    UsageError, MissingPackageError.
    """
    require_extra("a signature", "sign", "model-signing", "pyopenssl")
    public = _public_key(key)
    path = folder / SIGNATURE
    if path.is_symlink() or not path.is_file():
        raise BundleError(
            f"{folder} is not signed: {SIGNATURE} is missing",
            "ask for a bundle that slmkit sign has signed",
        )
    if path.stat().st_size > LONGEST:
        raise BundleError(f"{path} is larger than any signature", "ask for the bundle again")
    config = _library().verifying.Config().use_elliptic_key_verifier(public_key=key)
    with _in_one_sentence(folder, key), contextlib.redirect_stdout(io.StringIO()):
        config.verify(folder, path)
    return hashlib.sha256(public).hexdigest()


def _library() -> Any:
    """model_signing, which has types in part."""
    return import_module("model_signing")


@contextlib.contextmanager
def _in_one_sentence(folder: Path, key: Path) -> Iterator[None]:
    """Turn the errors of the library into BundleError."""
    from cryptography.exceptions import InvalidSignature

    try:
        yield
    except InvalidSignature:
        raise _of_another_key(folder, key) from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        said = str(error)
        if said.startswith("Key mismatch"):
            raise _of_another_key(folder, key) from None
        if said.startswith("Signature mismatch"):  # the files are those of the manifest
            raise BundleError(
                f"{folder} is not what was signed: its manifest was changed afterwards",
                "ask for the bundle again, or for a new signature",
            ) from None
        raise BundleError(
            f"{folder / SIGNATURE} is damaged: {type(error).__name__}",
            "ask for the bundle again, or for a new signature",
        ) from None


def _of_another_key(folder: Path, key: Path) -> BundleError:
    return BundleError(
        f"{folder / SIGNATURE} was not made with the key of {key}, or was changed",
        "give the public key of whoever signed the bundle",
    )


def _private_key(path: Path, password: str | None) -> None:
    """Refuse what cannot sign, in one sentence."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    secret = None if password is None else password.encode()
    try:
        key = serialization.load_pem_private_key(_read(path), secret)
    except TypeError:
        said = "is encrypted" if password is None else "is not encrypted, and a password was given"
        raise UsageError(
            f"the key {path} {said}", "SLMKIT_SIGN_PASSWORD has the password of an encrypted key"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "" if password is None else ", or the password is wrong"
        raise UsageError(f"{path} is no private key in PEM{wrong}", MAKE) from None
    _check_curve(path, key)


def _public_key(path: Path) -> bytes:
    """A public key, in PEM. Raises UsageError for what is none."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        hint = "openssl ec -in key.pem -pubout -out key.pub writes that of a private key"
        raise UsageError(f"{path} is no public key in PEM", hint) from None
    _check_curve(path, key)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form)


def _check_curve(path: Path, key: Any) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in CURVES:
        raise UsageError(f"{path} is no key of {', '.join(CURVES)}", MAKE)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > LARGEST_KEY:
            raise UsageError(f"{path} is too large for a key", MAKE)
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}", MAKE) from None
