"""Compare all artifacts of a build with the references, except what an earlier build has found."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as checked

from slmkit.backend.artifact import STRICT, Artifact
from slmkit.checkpoint.folder import Checkpoint
from slmkit.parity.expected import Expected
from slmkit.parity.first_prompt import (
    FirstPrompt,
    LayerError,
    Reading,
    float_reading,
    layer_errors,
    reading,
)
from slmkit.parity.golden import Ids, Prompt
from slmkit.parity.golden_file import save_golden
from slmkit.parity.memo import Memo
from slmkit.parity.metrics import FLOAT_WEIGHTS, Comparison
from slmkit.parity.proof import HeldOut, Proof
from slmkit.parity.references import quantization_cost, wants_rounding
from slmkit.planning.plan import Encoding
from slmkit.quant.codes import CodesFile
from slmkit.system.cache import Cache, file_hash, key_of
from slmkit.system.jobs import Job
from slmkit.system.progress import Progress
from slmkit.system.source import source_digest

COST, GOLDEN = "cost.json", "golden.safetensors"
JUDGING = 300 * 10**6  # bytes: logits of a prompt, of both sides
Comparisons = tuple[Comparison, ...]


@checked(frozen=True, config=STRICT)
class Cost:
    """The codes of an encoding beside the float weights."""

    comparison: Comparison
    floats: Reading
    codes: Reading
    layers: tuple[LayerError, ...]


_COST = TypeAdapter(Cost)


@dataclass(frozen=True)
class Proved:
    """Every comparison of a build, and what is told of its first prompt."""

    comparisons: Comparisons
    first_prompt: FirstPrompt


@dataclass
class Proving:
    """The comparison of one build's artifacts in every mode, each from when it is written on."""

    checkpoint: Checkpoint
    codes: Mapping[Encoding, CodesFile]
    proof: Proof
    cache: Cache
    progress: Progress
    prompts: Sequence[Prompt]
    _sequences: list[Ids] = field(default_factory=list)  # the prompts, once they are continued
    _written: list[Artifact] = field(default_factory=list)  # before there were sequences
    _open: dict[str, Encoding] = field(default_factory=dict)  # artifacts that still run, by name
    _known: dict[str, Comparisons] = field(default_factory=dict)  # by artifact: judged

    @cached_property
    def memo(self) -> Memo:
        """The cache's memory of the artifacts."""
        names = [name for each in self.codes for name in each.artifacts]
        return Memo(self.cache, self.proof, self.common, names)

    @cached_property
    def expected(self) -> Expected:
        """The references' answers."""
        proof = self.proof
        about = self.checkpoint, self.codes, self.prompts, proof.crossing, proof.parameters
        return Expected(*about)

    def begin(self, first: Artifact, progress: Progress) -> None:
        """Let the first artifact continue the prompts, in a job of its own."""
        self._sequences = self.memo.sequences(first, self.prompts, progress)

    def jobs(self, artifact: Artifact) -> list[Job[None]]:
        """The runs of an artifact that is now written, and the answers that they are compared with,
        but for those that the cache remembers; with them those of earlier ones that waited for the
        prompts."""
        self._written.append(artifact)
        if not self._sequences:
            return []
        written, self._written = self._written, []
        return [job for each in written for job in self._jobs(each, self._sequences)]

    def _jobs(self, artifact: Artifact, sequences: list[Ids]) -> list[Job[None]]:
        (encoding,) = (each for each in self.codes if artifact.name in each.artifacts)
        kept = self._golden(encoding, sequences)  # asked in any case: it removes a damaged one
        known = self.memo.recall(artifact, self._about(encoding, sequences))
        if known is not None:
            self._known[artifact.name] = known
            with self.progress.branch() as own:
                own.stage(f"proof of {artifact.name}, as an earlier build found it", 1)
        if known is not None and kept is not None:
            return []
        rounded = known is None and wants_rounding(artifact)
        answers = self.expected.jobs(encoding, sequences, rounded)
        if known is not None:
            return answers
        self.proof.artifacts = {**self.proof.artifacts, artifact.name: artifact}
        self._open[artifact.name] = encoding
        lengths = [len(each.ids) for each in self.prompts]
        jobs = [*answers, *self.proof.runs_of(artifact, sequences, lengths)]
        return [replace(each, then=self._judged) for each in jobs]

    def _judged(self, done: None) -> list[Job[None]]:
        """Jobs that judge the artifacts whose runs and answers are all there: what they find is
        kept, however the build ends."""
        ready = {name: each for name, each in self._open.items() if self._complete(name, each)}
        for name in ready:
            del self._open[name]
        return [Job(partial(self._judge, *each), JUDGING, math.inf) for each in ready.items()]

    def _complete(self, name: str, encoding: Encoding) -> bool:
        artifact = self.proof.artifacts[name]
        rounded = not wants_rounding(artifact) or encoding in self.expected.rounded
        return self.proof.has_run(artifact) and rounded and encoding in self.expected.exact

    def _judge(self, name: str, encoding: Encoding, progress: Progress) -> None:
        sequences, answers = self._sequences, self.expected.answers(encoding)
        found = self._known[name] = tuple(self.proof.compare(answers, [name]))
        self.memo.keep(self.proof.artifacts[name], self._about(encoding, sequences), found)

    def compare(self) -> Proved:
        """The judgement of every artifact, when all jobs have ended. The golden answers go into the
        bundle."""
        sequences, found = self._sequences, self._known
        for each in self.codes:
            if each in self.expected.exact:
                self._keep_golden(each, sequences)
            for name in (name for name in each.artifacts if name not in found):
                self._judge(name, each, self.progress)  # no job of its own ended last
        artifacts = [one for each in self.codes for name in each.artifacts for one in found[name]]
        costs = [self._placed(each, sequences) for each in self.codes]
        readings = [
            costs[0].floats,
            *(each.codes for each in costs),
        ]
        for artifact in self.proof.artifacts.values():
            readings += self.proof.readings_of(artifact)
        layers = [each for cost in costs for each in cost.layers]
        ids, length = tuple(sequences[0].tolist()), len(self.prompts[0].ids)
        return Proved(
            (*artifacts, *(each.comparison for each in costs)),
            FirstPrompt(ids, length, tuple(readings), tuple(layers)),
        )

    @cached_property
    def common(self) -> Any:
        """Everything that the references' answers depend on, beside codes and sequences."""
        crossing, spec = self.proof.crossing, asdict(self.checkpoint.spec)
        return [
            self.checkpoint.shards.fingerprint,
            spec,
            crossing.to_json() if crossing else None,
            _held_out(self.proof.held_out),
            source_digest("slmkit"),
            np.__version__,
        ]

    def _about(self, encoding: Encoding, sequences: Sequence[Ids]) -> Any:
        return [self.codes[encoding].key, [ids.tolist() for ids in sequences]]

    def _golden_key(self, encoding: Encoding, sequences: Sequence[Ids]) -> str:
        bounds = {kind: bound.model_dump() for kind, bound in self.proof.bounds.items()}
        return key_of([self.common, encoding.name, self._about(encoding, sequences), bounds])

    def _golden(self, encoding: Encoding, sequences: Sequence[Ids]) -> Any:
        return self.cache.find("golden", self._golden_key(encoding, sequences))

    def _keep_golden(self, encoding: Encoding, sequences: Sequence[Ids]) -> None:
        """The answers as a bundle has them, and the recipe's cost, into the cache."""
        expected, name = self.expected, encoding.name
        golden, own = expected.exact[encoding], expected.floats
        floats = replace(golden, outputs=own)
        scale = self.codes[encoding].stream_scale
        streams = expected.float_stream, expected.streams[encoding]
        cost = Cost(
            quantization_cost(name, own, golden, self.proof.bounds),
            float_reading(golden, own),
            reading(name, "", FLOAT_WEIGHTS, floats, golden.outputs),
            layer_errors(name, *streams, scale),
        )
        with self.cache.making("golden", self._golden_key(encoding, sequences)) as making:
            save_golden(golden.reduced(), making / GOLDEN)
            values = json.dumps(_COST.dump_python(cost, mode="json"))
            (making / COST).write_text(values, encoding="utf-8")

    def _placed(self, encoding: Encoding, sequences: Sequence[Ids]) -> Cost:
        """The golden answers out of the cache into the bundle; the recipe's cost."""
        entry = self.cache.entry("golden", self._golden_key(encoding, sequences))
        place = self.proof.folder / encoding.golden
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(entry / GOLDEN, place)
        return _COST.validate_json((entry / COST).read_text(encoding="utf-8"))


def _held_out(held_out: HeldOut | None) -> Any:
    return None if held_out is None else [file_hash(held_out.path), held_out.chunk]
