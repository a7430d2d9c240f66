"""Bills of materials of a bundle: SPDX and CycloneDX, written and validated by their libraries."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slmkit import __version__
from slmkit.backend.registry import require_extra
from slmkit.bundle.manifest import MANIFEST, read_manifest
from slmkit.bundle.parts import PartOfBundle, parts_of
from slmkit.errors import BundleError, UsageError

SPDX, CYCLONEDX = "spdx", "cyclonedx"
NAMESPACE = "https://slmkit.invalid/bundle/"  # of SPDX's documents: an identifier, no address
EPOCH = "SOURCE_DATE_EPOCH"  # https://reproducible-builds.org/specs/source-date-epoch
REF = "LicenseRef-"


def sbom(bundle: Path, form: str, model_license: str = "") -> str:
    """The bill of materials of a bundle as JSON.

    ``form``: "spdx" (2.3) or "cyclonedx" (1.6). ``model_license``: an SPDX expression, or any name,
    which then stands as a reference. Raises BundleError, UsageError for another form,
    MissingPackageError.
    """
    if form not in FORMS:
        raise UsageError(f"there is no form {form!r}", f"forms: {', '.join(FORMS)}")
    require_extra("a bill of materials", "sbom", "cyclonedx-python-lib", "spdx-tools")
    manifest = read_manifest(bundle)
    digest = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    return FORMS[form](bundle.resolve().name, digest, parts_of(manifest, model_license))


def license_of_text(text: str) -> str:
    """An SPDX expression of any text: itself if it is one, in SPDX's own spelling; else a reference
    that is made of it; empty for an empty one."""
    if not text.strip():
        return ""
    from license_expression import ExpressionError

    try:
        parsed = spdx_licenses().parse(text, validate=True)
        return str(parsed) if parsed is not None else ""
    except (ExpressionError, TypeError, ValueError):
        plain = "".join(each if each.isalnum() or each in ".-" else "-" for each in text.strip())
        ascii_only = plain.encode("ascii", "ignore").decode()[:60].strip("-.")
        return f"{REF}{ascii_only}" if ascii_only else ""


@functools.cache
def spdx_licenses() -> Any:
    """The reader of SPDX's expressions, which knows its list of licenses; made once."""
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


def _spdx(name: str, digest: str, parts: Sequence[PartOfBundle]) -> str:
    from spdx_tools.spdx import model as spdx
    from spdx_tools.spdx.model import package as packages
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
    from spdx_tools.spdx.writer.json import json_writer

    root = "SPDXRef-bundle"
    creator = spdx.Actor(spdx.ActorType.TOOL, f"slmkit-{__version__}")
    info = spdx.CreationInfo(
        "SPDX-2.3", "SPDXRef-DOCUMENT", name, f"{NAMESPACE}{digest}", [creator], _now()
    )
    purposes = packages.PackagePurpose
    made = [_spdx_package(root, PartOfBundle("file", name, sha256=""), purposes.ARCHIVE)]
    related = [_related("SPDXRef-DOCUMENT", "DESCRIBES", root)]
    for number, part in enumerate(parts):
        own = f"SPDXRef-{part.kind}-{number}"
        purpose = purposes.FILE if part.kind == "file" else purposes.LIBRARY
        made.append(_spdx_package(own, part, purpose))
        related.append(
            {
                "model": lambda own: _related(root, "GENERATED_FROM", own),
                "runtime": lambda own: _related(own, "RUNTIME_DEPENDENCY_OF", root),
                "tool": lambda own: _related(own, "BUILD_TOOL_OF", root),
                "file": lambda own: _related(root, "CONTAINS", own),
            }[part.kind](own)
        )
    references = {license_of_text(part.license): part.license for part in parts}
    extracted = [
        spdx.ExtractedLicensingInfo(reference, text, license_name=text)
        for reference, text in references.items()
        if reference.startswith(REF)
    ]
    document = spdx.Document(info, made, relationships=related, extracted_licensing_info=extracted)
    _valid([str(each.validation_message) for each in validate_full_spdx_document(document)])
    out = io.StringIO()
    json_writer.write_document_to_stream(document, out, validate=False)
    return out.getvalue().rstrip() + "\n"


def _spdx_package(own: str, part: PartOfBundle, purpose: Any) -> Any:
    from spdx_tools.spdx import model as spdx

    found = license_of_text(part.license)
    unknown = spdx.SpdxNoAssertion()
    references = spdx.ExternalPackageRefCategory.PACKAGE_MANAGER
    return spdx.Package(
        own,
        part.name,
        unknown,
        version=part.version or None,
        files_analyzed=False,
        checksums=[spdx.Checksum(spdx.ChecksumAlgorithm.SHA256, part.sha256)]
        if part.sha256
        else None,
        license_declared=spdx_licenses().parse(found) if found else unknown,
        license_concluded=unknown,
        copyright_text=unknown,
        comment=part.about or None,
        external_references=[spdx.ExternalPackageRef(references, "purl", part.purl)]
        if part.purl
        else None,
        primary_package_purpose=purpose,
    )


def _related(one: str, kind: str, other: str) -> Any:
    from spdx_tools.spdx import model as spdx

    return spdx.Relationship(one, spdx.RelationshipType[kind], other)


def _cyclonedx(name: str, digest: str, parts: Sequence[PartOfBundle]) -> str:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentScope, ComponentType
    from cyclonedx.model.license import LicenseExpression
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL

    types = {"model": ComponentType.MACHINE_LEARNING_MODEL, "file": ComponentType.FILE}
    root = Component(name=name, type=ComponentType.DATA, bom_ref="bundle")
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, NAMESPACE + digest),
        metadata=BomMetaData(component=root, timestamp=_now()),
    )
    for number, part in enumerate(parts):
        found = license_of_text(part.license)
        each = Component(
            name=part.name,
            type=types.get(part.kind, ComponentType.LIBRARY),
            bom_ref=f"{part.kind}-{number}",
            version=part.version or None,
            description=part.about or None,
            scope=ComponentScope.EXCLUDED if part.kind == "tool" else ComponentScope.REQUIRED,
            licenses=[LicenseExpression(found)] if found else None,
            purl=PackageURL.from_string(part.purl) if part.purl else None,
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)]
            if part.sha256
            else None,
        )
        bom.components.add(each)
        bom.register_dependency(root, [each])
    text: str = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(
        indent=2
    )
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    _valid([] if wrong is None else [str(wrong)])
    return text.rstrip() + "\n"


FORMS: Mapping[str, Callable[[str, str, Sequence[PartOfBundle]], str]] = {
    SPDX: _spdx,
    CYCLONEDX: _cyclonedx,
}


def _valid(wrong: Sequence[str]) -> None:
    """Refuse to hand out what the format's own validator does not take."""
    if wrong:
        said = " ".join(wrong[0].split())[:300]
        raise BundleError(f"the bill of materials is not valid: {said}", "report it as a bug")


def _now() -> datetime:
    """The time of the document, to the second: SOURCE_DATE_EPOCH if it is set."""
    epoch = os.environ.get(EPOCH, "")
    if epoch.isdigit():
        return datetime.fromtimestamp(int(epoch), UTC).replace(tzinfo=None)
    return datetime.now(UTC).replace(microsecond=0, tzinfo=None)
