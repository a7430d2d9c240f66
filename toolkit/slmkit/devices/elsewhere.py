"""Artifacts on another machine: the job that is sent, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.registry import declaration_of
from slmkit.bundle.manifest import BundledArtifact, Manifest
from slmkit.devices.places.place import OUTPUTS, Payload, Place, payload_of, result_in
from slmkit.devices.report import Device
from slmkit.errors import BackendError, RefusedError
from slmkit.parity.golden import Golden, Outputs, chunks

NO_WAY = "its backend does not say how it runs on another machine"
APP = "its app project has a self-test: slmkit app new"
NOT_SENT = ("path", "golden", "out", "mode", "chunk")  # of a local job


class Remote:
    """An artifact of a bundle in a place; ``device``: of the last run."""

    def __init__(self, place: Place, payload: Payload) -> None:
        self.place, self.payload = place, payload
        self.facts: dict[str, Any] = {}

    def run(
        self, job: dict[str, Any], golden: Golden | None, report: Callable[[int], None]
    ) -> dict[str, Any]:
        """Do a job of ``slmkit.devices.bench_job`` there; OUTPUTS lies in the job's ``out``."""
        sent = {key: value for key, value in job.items() if key not in NOT_SENT}
        sent |= {"cases": [], "columns": []}
        if golden is not None:
            parts = zip(golden.names, golden.sequences, golden.prompt_lengths, strict=True)
            sent["cases"] = [
                {
                    "name": name,
                    "prompt": length,
                    "pieces": [piece.tolist() for piece in chunks(ids, length)],
                }
                for name, ids, length in parts
            ]
            sent["columns"] = golden.outputs.columns.tolist()
        self.place.prepare(self.payload)
        out = Path(job["out"])
        self.place.execute(self.payload, sent, out)
        found = result_in(out, self.place)
        self.facts = found.pop("device")
        report(len(job["lengths"]) + 1)
        return found

    @property
    def device(self) -> Device:
        """Facts that the last job read there."""
        known = {key: each for key, each in self.facts.items() if key in Device.model_fields}
        return Device(where=self.place.name, emulated=self.place.emulated, **known)


def outputs_in(out: Path, golden: Golden, place: Place) -> Outputs:
    """The logits that a job brought back. Raises BackendError if they do not fit the golden."""
    columns = golden.outputs.columns
    try:
        with np.load(out / OUTPUTS, allow_pickle=False) as found:
            outputs = Outputs(columns, found["values"], found["norm"], found["best"])
    except (OSError, ValueError, KeyError):
        raise BackendError(f"{place.name} sent no logits back", "run it again") from None
    positions = sum(map(len, golden.sequences))
    if outputs.values.shape != (positions, len(columns)) or len(outputs.norm) != positions:
        raise BackendError(
            f"{place.name} sent logits of other positions back", "slmkit on both sides the same?"
        )
    return outputs


def remote(folder: Path, artifact: BundledArtifact, place: Place) -> Remote:
    """An artifact of the bundle in ``folder``, for a place. Raises RefusedError."""
    elsewhere = declaration_of(artifact.name).elsewhere
    if elsewhere is None:
        raise RefusedError(f"{artifact.name}: {NO_WAY}", APP)
    return Remote(place, payload_of(folder, artifact, elsewhere))


def can_go(
    manifest: Manifest, asked: Sequence[str], place: Place
) -> tuple[list[BundledArtifact], list[str]]:
    """The artifacts that a payload can run in a place, and sentences about the others.

    Raises BundleError for an artifact that the bundle has not, RefusedError if none is left,
    BackendError if the place does not answer.
    """
    chosen, left_out = divided(manifest, asked, place)
    if not chosen:
        raise RefusedError(
            f"nothing of this bundle can be sent: {'; '.join(left_out.values())}", APP
        )
    return chosen, list(left_out.values())


def divided(
    manifest: Manifest, asked: Sequence[str], place: Place
) -> tuple[list[BundledArtifact], dict[str, str]]:
    """As ``can_go``; nothing may be left, and the sentences are by artifact."""
    chosen, left_out = [], {}
    for artifact in [manifest.artifact(name) for name in asked] or manifest.artifacts:
        elsewhere = declaration_of(artifact.name).elsewhere
        if elsewhere is None:
            left_out[artifact.name] = f"{artifact.name}: {NO_WAY}"
        elif place.system not in elsewhere.systems:
            systems = " or ".join(elsewhere.systems)
            said = f"its runtime needs {systems}, not {place.system}"
            left_out[artifact.name] = f"{artifact.name}: {said}"
        else:
            chosen.append(artifact)
    return chosen, left_out


def mode_as_it_ships(artifact: BundledArtifact) -> str:
    """The mode whose arithmetic is that of the files as they ship."""
    declared = declaration_of(artifact.name)
    wanted = (declared.elsewhere and declared.elsewhere.mode) or declared.timed
    return wanted if wanted in {mode.name for mode in artifact.modes} else artifact.default_mode
