"""The facts of a bundle as a report tells them: one row for an artifact, in words and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from slmkit.backend.registry import declaration_of
from slmkit.bundle.manifest import BundledArtifact, File, Manifest
from slmkit.bundle.roles import most_that_ships
from slmkit.evaluation.gate import QualityLine
from slmkit.parity.metrics import Comparison
from slmkit.parity.references import CODES
from slmkit.planning.forecast import Forecast, forecast
from slmkit.planning.memory import MemoryPlan, gigabytes
from slmkit.system.ledger import StageCost

LARGEST_FILES = 5  # of an artifact, that are named


@dataclass(frozen=True)
class ArtifactFacts:
    """One artifact of a bundle."""

    name: str
    about: str
    devices: tuple[str, ...]  # chips or GPUs with files of their own
    size: int  # bytes that one device gets: the most
    memory: MemoryPlan  # bytes that an app needs with a full context
    proved: tuple[Comparison, ...]  # its lines of the parity report
    quality: QualityLine | None  # on held-out text; None if it was not measured
    codes: QualityLine | None  # the same of its codes
    files: tuple[File, ...]  # the largest that ship

    @property
    def passed(self) -> bool:
        """Whether every line keeps its bounds."""
        return all(each.passed for each in self.proved)

    @property
    def price(self) -> str:
        """The recipe's price in a word, of the artifact or of its codes."""
        line = self.quality or self.codes
        return line.price if line else "not measured"


@dataclass(frozen=True)
class DeviceLine:
    """One artifact on one device, as a report of that device has it."""

    device: str
    artifact: str  # and its mode
    runtime: str
    tokens: str  # how far they are the reference's, in words
    passed: bool
    speeds: str  # empty: not measured, or of no meaning
    notices: tuple[str, ...]


def artifact_facts(manifest: Manifest) -> tuple[ArtifactFacts, ...]:
    """A row for each artifact of a bundle."""
    return tuple(_facts(manifest, each) for each in manifest.artifacts)


def phone_forecast(manifest: Manifest) -> Forecast:
    """The speeds and memory to expect on the target's short list of phones; empty for bundles of
    older versions, and for artifacts that run on no processor with public figures."""
    works = {}
    for each in manifest.artifacts:
        processor = declaration_of(each.name).processor
        if processor is not None and each.work is not None:
            works[each.name] = (processor, each.work, each.memory.total)
    return forecast(works, manifest.target)


def cost_text(cost: StageCost) -> str:
    """Seconds and the peak of memory: "3.1 s, 1.23 GB"."""
    took = f"{cost.seconds:,.1f} s"
    return took if cost.memory is None else f"{took}, {gigabytes(cost.memory)}"


def _facts(manifest: Manifest, artifact: BundledArtifact) -> ArtifactFacts:
    lines = manifest.quality.lines if manifest.quality else ()
    own = [line for line in lines if line.artifact == artifact.name]
    encoding = _encoding(artifact)
    codes = [line for line in lines if line.mode == CODES and line.artifact in (encoding, "all")]
    files = most_that_ships(manifest, artifact)
    return ArtifactFacts(
        artifact.name,
        declaration_of(artifact.name).about,
        tuple(device for device in artifact.ships if device),
        sum(file.size for file in files),
        artifact.memory,
        tuple(line for line in manifest.parity if line.artifact == artifact.name),
        own[-1] if own else None,
        codes[0] if codes else None,
        tuple(sorted(files, key=lambda file: -file.size)[:LARGEST_FILES]),
    )


def _encoding(artifact: BundledArtifact) -> str:
    """The name of the codes that it holds, which the name of its golden file ends with."""
    return artifact.golden.rpartition("/golden-")[2].removesuffix(".safetensors").replace("-", ", ")
