"""Delivery forms of an export: a plain folder, Google's AI packs, Apple's Background Assets.

Sources: AI packs and their limits, developer.android.com/google/play/on-device-ai; device groups,
developer.android.com/google/play/device-targeting; the manifest of an asset pack,
developer.apple.com/documentation/backgroundassets/creating-managed-asset-packs and the template
that ``xcrun ba-package template`` prints.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from slmkit.backend.targets import ANDROID, IOS
from slmkit.bundle.manifest import BundledArtifact, File, Manifest
from slmkit.bundle.pages import render
from slmkit.errors import RefusedError, UsageError

PLAIN, AI_PACK, BACKGROUND_ASSETS = "plain", "ai-pack", "background-assets"
FORMS = {PLAIN: "", AI_PACK: ANDROID.name, BACKGROUND_ASSETS: IOS.name}  # and its target
MODEL = "model"  # the folder that an app gets
LINKED = "linked"  # files that an app is linked with
PACK_LIMIT, APP_LIMIT = 1_500_000_000, 4_000_000_000  # bytes of a pack, and of all of one device
HOSTED_LIMIT = 200_000_000_000  # bytes of all asset packs that Apple hosts for an app
MANUFACTURERS = ("QTI", "Qualcomm")  # phones give either in Build.SOC_MANUFACTURER


@dataclass(frozen=True)
class Folder:
    """One folder of a model: what it is called in the form, for which devices, and its files."""

    path: str
    devices: tuple[str, ...]
    files: tuple[File, ...]


@dataclass(frozen=True)
class Delivery:
    """A plan of a form: folders of a model, files to link, and texts by name."""

    folders: tuple[Folder, ...]
    linked: tuple[File, ...] = ()
    texts: Mapping[str, str] | None = None


def check_form(form: str, manifest: Manifest) -> None:
    """Raise UsageError for an unknown form, and for one of another platform."""
    if form not in FORMS:
        raise UsageError(f"there is no delivery form {form!r}", f"forms: {', '.join(FORMS)}")
    if FORMS[form] not in ("", manifest.target):
        raise UsageError(
            f"{form} is for {FORMS[form]}, and the bundle for {manifest.target}",
            f"choose --as {PLAIN}, or build with --target {FORMS[form]}",
        )


def plan_delivery(
    form: str,
    manifest: Manifest,
    artifact: BundledArtifact,
    by_device: Mapping[str, tuple[File, ...]],
) -> Delivery:
    """Where the files of an artifact go. ``by_device``: all that one device loads; "" if files are
    the same for every one, or nothing tells the devices apart.

    Raises RefusedError beyond a store's limits.
    """
    linked = {file for files in by_device.values() for file in files if _is_linked(artifact, file)}
    kept = {
        device: tuple(file for file in files if file not in linked)
        for device, files in by_device.items()
    }
    build = {AI_PACK: _ai_packs, BACKGROUND_ASSETS: _background_assets}[form]
    folders, texts = build(manifest, artifact, kept, bool(linked))
    return Delivery(folders, tuple(sorted(linked, key=lambda file: file.path)), texts)


def pack_name(manifest: Manifest, artifact: BundledArtifact) -> str:
    """A name of letters, digits and underscores that begins with a letter, as Play asks for."""
    name = re.sub(r"[^a-z0-9]+", "_", f"{manifest.model.name}_{artifact.name}".lower()).strip("_")
    return name if name[:1].isalpha() else f"model_{name}"


def _is_linked(artifact: BundledArtifact, file: File) -> bool:
    inside = file.path.removeprefix(f"{artifact.folder}/")
    return any(fnmatchcase(inside, pattern) for pattern in artifact.linked)


def _ai_packs(
    manifest: Manifest,
    artifact: BundledArtifact,
    kept: Mapping[str, tuple[File, ...]],
    linked: bool,
) -> tuple[tuple[Folder, ...], dict[str, str]]:
    """Packs of at most ``PACK_LIMIT`` bytes for each device; a chip has a device group, and gets
    its folder ``model#group_CHIP`` as ``model``."""
    stem, groups = pack_name(manifest, artifact), {each for each in kept if each}
    folders, packs = [], dict[str, None]()
    for device, files in kept.items():
        _check(sum(file.size for file in files), APP_LIMIT, artifact, "Google Play takes {} an app")
        place = f"{MODEL}#group_{device}" if device else MODEL
        for number, part in enumerate(_parts(files, artifact), 1):
            pack = stem if number == 1 else f"{stem}_{number}"
            packs[pack] = None
            path = f"{pack}/src/main/assets/{place}"
            folders.append(Folder(path, (device,) if device else (), tuple(part)))
    targets = {each: artifact.soc_models[each] for each in sorted(groups)}
    texts = {f"{pack}/build.gradle.kts": render("ai_pack.gradle.kts", pack=pack) for pack in packs}
    if targets:
        name = "device_targeting_configuration.xml"
        texts[name] = render(name, groups=targets, manufacturers=MANUFACTURERS)
    texts["DELIVERY.md"] = render(
        "ai_pack.md",
        packs=list(packs),
        groups=list(targets),
        model=manifest.model.name,
        artifact=artifact.name,
        linked=linked,
    )
    return tuple(folders), texts


def _parts(files: Sequence[File], artifact: BundledArtifact) -> Iterator[list[File]]:
    """Files in their order, as many as a pack takes at a time."""
    part: list[File] = []
    for file in files:
        _check(file.size, PACK_LIMIT, artifact, "a pack takes {}", file.path)
        if sum(each.size for each in part) + file.size > PACK_LIMIT:
            yield part
            part = []
        part.append(file)
    yield part


def _background_assets(
    manifest: Manifest,
    artifact: BundledArtifact,
    kept: Mapping[str, tuple[File, ...]],
    linked: bool,
) -> tuple[tuple[Folder, ...], dict[str, str]]:
    """One asset pack, downloaded when the app asks for it."""
    ((_, files),) = kept.items()
    _check(sum(file.size for file in files), HOSTED_LIMIT, artifact, "Apple hosts {} an app")
    pack = pack_name(manifest, artifact)
    packaged = {
        "assetPackID": pack,
        "downloadPolicy": {"onDemand": {}},
        "fileSelectors": [{"directory": MODEL}],
        "platforms": ["iOS"],
    }
    named = {"pack": pack, "model": manifest.model.name, "artifact": artifact.name}
    texts = {
        "manifest.json": json.dumps(packaged, indent=2) + "\n",
        "DELIVERY.md": render("background_assets.md", **named, linked=linked),
    }
    return (Folder(MODEL, (), tuple(files)),), texts


def _check(
    size: int, limit: int, artifact: BundledArtifact, rule: str, name: str = "the artifact"
) -> None:
    """Raise RefusedError with both numbers beyond a limit."""
    if size > limit:
        allowed = rule.format(f"at most {limit / 1e9:g} GB")
        raise RefusedError(
            f"{artifact.name}: {name} has {size / 1e9:.2f} GB, and {allowed}",
            "choose a smaller model or recipe, or let the app download it itself",
        )
