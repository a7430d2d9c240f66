"""Precision that a device's kernels lose, beside the bundle's build: the sentence about it."""

from __future__ import annotations

from slmkit.backend.declaration import KernelLoss
from slmkit.backend.registry import declaration_of
from slmkit.bundle.manifest import BundledArtifact, Manifest
from slmkit.devices.report import Tokens
from slmkit.parity.metrics import REFERENCE, Metrics

TOLD_DB = 1.0  # the sample model: 0.0 between computers that round alike, 2.0 by KleidiAI
# On 31 tiny models a Cortex-A76's kernels lost at most 2.8 dB beside x86-64's in one artifact,
# known causes included, and 0.4 dB in another (tests/slow/test_arm64_rows.py). Where no cause is
# known, more is a fault.
UNEXPLAINED_DB = 4.0


def recorded(manifest: Manifest, artifact: str, mode: str) -> Metrics | None:
    """The build's own metrics of an artifact against the reference."""
    for each in manifest.parity:
        if (each.artifact, each.mode, each.against) == (artifact, mode, REFERENCE):
            return each.metrics
    return None


def judged_beside_build(
    manifest: Manifest,
    artifact: BundledArtifact,
    mode: str,
    tokens: Tokens,
    features: tuple[str, ...],
) -> Tokens:
    """The tokens, failed if the device is much less precise than the computer of the build and no
    kernels for such a processor are known to be. By the median position: an expert or a token that
    falls the other way costs others."""
    here = recorded(manifest, artifact.name, mode)
    if here is None or tokens.median_db is None or _causes(artifact, features):
        return tokens
    if not tokens.median_db < here.median_db - UNEXPLAINED_DB:
        return tokens
    said = (
        f"the median position's SNR {tokens.median_db:.1f} dB is more than {UNEXPLAINED_DB:g} dB "
        f"below the build's {here.median_db:.1f} dB"
    )
    return tokens.model_copy(update={"failures": (*tokens.failures, said)})


def loss_notices(
    manifest: Manifest,
    artifact: BundledArtifact,
    mode: str,
    tokens: Tokens,
    features: tuple[str, ...],
) -> tuple[str, ...]:
    """Sentences, if the device is less precise than the computer of the build: by how much, by
    which kernels, and what avoids it."""
    build = recorded(manifest, artifact.name, mode)
    if build is None or not tokens.snr_db < build.snr_db - TOLD_DB:
        return ()
    here = build.snr_db
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
