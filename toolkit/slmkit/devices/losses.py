"""Precision that a device's kernels lose, beside the bundle's build: the sentence about it."""

from __future__ import annotations

from slmkit.backend.declaration import KernelLoss
from slmkit.backend.registry import declaration_of
from slmkit.bundle.manifest import BundledArtifact, Manifest
from slmkit.devices.report import Tokens
from slmkit.parity.metrics import REFERENCE

SAME_DB = 1.0  # two computers that round alike differ by less: at most 0.3 dB on tiny models


def recorded_db(manifest: Manifest, artifact: str, mode: str) -> float | None:
    """The SNR that the build measured of an artifact against the reference, in dB."""
    for each in manifest.parity:
        if (each.artifact, each.mode, each.against) == (artifact, mode, REFERENCE):
            return each.metrics.snr_db
    return None


def loss_notices(
    manifest: Manifest,
    artifact: BundledArtifact,
    mode: str,
    tokens: Tokens,
    features: tuple[str, ...],
) -> tuple[str, ...]:
    """Sentences, if the device is less precise than the computer of the build: by how much, by
    which kernels, and what avoids it."""
    here = recorded_db(manifest, artifact.name, mode)
    if here is None or not tokens.snr_db < here - SAME_DB:
        return ()
    said = (
        f"{artifact.name} has {tokens.snr_db:.1f} dB on this device, where the build measured "
        f"{here:.1f} dB"
    )
    known = [f"{each.about}; {each.remedy}" for each in _causes(artifact, features)]
    return (f"{said}: {'; '.join(known) or 'no reason is known'}",)


def _causes(artifact: BundledArtifact, features: tuple[str, ...]) -> list[KernelLoss]:
    elsewhere = declaration_of(artifact.name).elsewhere
    return [
        each
        for each in (elsewhere.losses if elsewhere else ())
        if set(each.features) <= set(features)
        and not (each.avoided and each.avoided.items() <= artifact.facts.items())
    ]
