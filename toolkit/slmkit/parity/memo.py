"""Proofs that need not be repeated: the comparisons of an artifact whose files, codes, references,
texts, bounds, runtimes and code are those of an earlier build."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from slmkit.backend.artifact import PROOF, Artifact
from slmkit.backend.registry import declaration_of, error_kinds, versions_of
from slmkit.evaluation.divergence import Divergence
from slmkit.parity.first_prompt import Reading
from slmkit.parity.golden import Ids, Prompt
from slmkit.parity.metrics import Comparison
from slmkit.parity.proof import Proof, Run
from slmkit.system.cache import Cache, file_hash, key_of
from slmkit.system.progress import Progress
from slmkit.system.source import source_digest

FOUND, IDS = "found.json", "ids.json"
_COMPARISONS = TypeAdapter(tuple[Comparison, ...])
_READINGS = TypeAdapter(tuple[Reading, ...])
_MEASURED = TypeAdapter(list[tuple[str, str, Divergence]])  # mode, runtime, divergence


@dataclass
class Memo:
    """A cache's memory of one proof's artifacts."""

    cache: Cache
    proof: Proof
    common: Any  # everything that all comparisons depend on, beside artifacts and codes
    names: Sequence[str]  # of all artifacts of the proof
    _digests: dict[str, Any] = field(default_factory=dict)

    def sequences(
        self, artifact: Artifact, prompts: Sequence[Prompt], progress: Progress | None = None
    ) -> list[Ids]:
        """The prompts as an artifact continues them: remembered, or generated now, in the job of
        ``progress`` if there is one."""
        asked = [[prompt.ids.tolist(), prompt.decode] for prompt in prompts]
        key = key_of([asked, self._about(artifact), artifact.modes[0].name])
        entry = self.cache.find("sequences", key)
        if entry is not None:
            return [np.asarray(ids) for ids in json.loads((entry / IDS).read_text())]
        found = self.proof.generate(artifact, prompts, progress)
        with self.cache.making("sequences", key) as making:
            (making / IDS).write_text(json.dumps([ids.tolist() for ids in found]))
        return found

    def recall(self, artifact: Artifact, answers: Any) -> tuple[Comparison, ...] | None:
        """The comparisons of an artifact with the ``answers`` that are so described, if they are
        remembered; what it measured on held-out text, and its readings, go into the proof."""
        entry = self.cache.find("proof", self._key(artifact, answers))
        if entry is None:
            return None
        values = json.loads((entry / FOUND).read_text(encoding="utf-8"))
        for mode, runtime, divergence in _MEASURED.validate_python(values["measured"]):
            run = Run([], [], runtime, divergence=divergence)
            self.proof.runs[artifact.name, mode] = run
        for each in _READINGS.validate_python(values["readings"]):
            self.proof.readings[artifact.name, each.mode] = each
        return _COMPARISONS.validate_python(values["comparisons"])

    def keep(self, artifact: Artifact, answers: Any, found: Sequence[Comparison]) -> None:
        """Remember comparisons, if all of them passed: a failure is looked at again."""
        if not all(each.passed for each in found):
            return
        measured = [
            (mode, runtime, divergence)
            for name, mode, runtime, divergence in self.proof.measured
            if name == artifact.name
        ]
        values = {
            "comparisons": _COMPARISONS.dump_python(tuple(found), mode="json"),
            "measured": _MEASURED.dump_python(measured, mode="json"),
            "readings": _READINGS.dump_python(self.proof.readings_of(artifact), mode="json"),
        }
        with self.cache.making("proof", self._key(artifact, answers)) as making:
            (making / FOUND).write_text(json.dumps(values), encoding="utf-8")

    def _key(self, artifact: Artifact, answers: Any) -> str:
        bounds = {kind: bound.model_dump() for kind, bound in self.proof.bounds.items()}
        kinds = error_kinds(self.names)
        known = {name: asdict(kind) | {"bound": dict(kind.bound)} for name, kind in kinds.items()}
        return key_of([self.common, answers, self._about(artifact), bounds, known])

    def _about(self, artifact: Artifact) -> Any:
        """The artifact's files, its runtimes and the code that runs it."""
        if artifact.name not in self._digests:
            declared = declaration_of(artifact.name)
            self._digests[artifact.name] = [
                _files(self.proof.folder, artifact.name),
                versions_of(artifact.name),
                source_digest("slmkit"),
                source_digest(declared.module),
                [asdict(mode) for mode in artifact.modes],
            ]
        return self._digests[artifact.name]


def _files(folder: Path, artifact: str) -> Mapping[str, str]:
    """SHA-256 of an artifact's files, of those that stand apart too."""
    return {
        path.relative_to(folder).as_posix(): file_hash(path) for path in _paths(folder, artifact)
    }


def _paths(folder: Path, artifact: str) -> Iterable[Path]:
    places = (folder / artifact, folder / PROOF / artifact)
    return sorted(path for place in places for path in place.rglob("*") if path.is_file())
