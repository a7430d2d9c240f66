"""Compare all artifacts of a build with the references, except what an earlier build has found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as checked

from slmkit.backend.artifact import STRICT, Artifact
from slmkit.checkpoint.folder import Checkpoint
from slmkit.parity.first_prompt import (
    FirstPrompt,
    LayerError,
    Reading,
    Stream,
    float_reading,
    layer_errors,
    reading,
)
from slmkit.parity.golden import Ids, Outputs, Prompt
from slmkit.parity.golden_file import save_golden
from slmkit.parity.memo import Memo
from slmkit.parity.metrics import FLOAT_WEIGHTS, Comparison
from slmkit.parity.proof import HeldOut, Proof
from slmkit.parity.references import Answers, answers, float_outputs, quantization_cost
from slmkit.planning.plan import Encoding
from slmkit.quant.codes import CodesFile
from slmkit.system.cache import Cache, file_hash, key_of
from slmkit.system.progress import Progress
from slmkit.system.source import source_digest

COST, GOLDEN = "cost.json", "golden.safetensors"
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


@dataclass(frozen=True)
class _Expected:
    """The references' answers, and the residual streams of the first sequence."""

    floats: Outputs
    float_stream: Stream
    answers: Mapping[Encoding, Answers]
    streams: Mapping[Encoding, Stream]


@dataclass
class Proving:
    """The comparison of one build's artifacts in every mode."""

    checkpoint: Checkpoint
    codes: Mapping[Encoding, CodesFile]
    proof: Proof
    cache: Cache
    progress: Progress
    prompts: Sequence[Prompt]
    _sequences: list[Ids] | None = None  # the prompts, continued

    @cached_property
    def memo(self) -> Memo:
        """The cache's memory of the artifacts."""
        return Memo(self.cache, self.proof, self.common)

    def begin(self, first: Artifact, progress: Progress) -> None:
        """Let the first artifact continue the prompts, while others are still written."""
        self._sequences = self.memo.sequences(first, self.prompts, progress)

    def compare(self) -> Proved:
        """Run what is not remembered; the references compute beside it. The golden answers go into
        the bundle."""
        first, prompts = next(iter(self.proof.artifacts.values())), self.prompts
        sequences = self._sequences or self.memo.sequences(first, prompts)
        known = {
            name: found
            for each in self.codes
            for name in each.artifacts
            if (found := self.memo.recall(self.proof.artifacts[name], self._about(each, sequences)))
        }
        for name in known:
            self.progress.stage(f"proof of {name}, as an earlier build found it", 1)
        wanted = [
            each
            for each in self.codes
            if self._golden(each, sequences) is None or set(each.artifacts) - set(known)
        ]
        if wanted:
            known |= self._anew(wanted, prompts, sequences, set(known))
        artifacts = [
            found for each in self.codes for name in each.artifacts for found in known[name]
        ]
        costs = [self._placed(each, sequences) for each in self.codes]
        readings = [
            costs[0].floats,
            *(each.codes for each in costs),
        ]
        for artifact in self.proof.artifacts.values():
            readings += self.proof.readings_of(artifact)
        layers = [each for cost in costs for each in cost.layers]
        ids, length = tuple(sequences[0].tolist()), len(prompts[0].ids)
        return Proved(
            (*artifacts, *(each.comparison for each in costs)),
            FirstPrompt(ids, length, tuple(readings), tuple(layers)),
        )

    def _anew(
        self,
        encodings: Sequence[Encoding],
        prompts: Sequence[Prompt],
        sequences: Sequence[Ids],
        known: set[str],
    ) -> dict[str, Comparisons]:
        """Run and compare the artifacts that are not ``known``; keep golden answers."""
        lengths = [len(prompt.ids) for prompt in prompts]
        references = partial(self._references, encodings, prompts, sequences)
        missing = [name for each in encodings for name in each.artifacts if name not in known]
        expected = self.proof.run_all(sequences, lengths, references, missing)
        found = {}
        for each in encodings:
            self._keep_golden(each, sequences, expected)
            for name in (name for name in each.artifacts if name in missing):
                found[name] = tuple(self.proof.compare(expected.answers[each], [name]))
                about = self._about(each, sequences)
                self.memo.keep(self.proof.artifacts[name], about, found[name])
        return found

    def _references(
        self,
        encodings: Sequence[Encoding],
        prompts: Sequence[Prompt],
        sequences: Sequence[Ids],
        progress: Progress,
    ) -> _Expected:
        stream: Stream = {}
        floats = float_outputs(self.checkpoint, sequences, progress, stream)
        proof, spec = self.proof, self.checkpoint.spec
        streams: dict[Encoding, Stream] = {each: {} for each in encodings}
        found = {
            each: answers(
                self.codes[each],
                spec,
                prompts,
                sequences,
                [proof.artifacts[name] for name in each.artifacts],
                progress,
                proof.crossing,
                streams[each],
            )
            for each in encodings
        }
        return _Expected(floats, stream, found, streams)

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

    def _keep_golden(
        self, encoding: Encoding, sequences: Sequence[Ids], expected: _Expected
    ) -> None:
        """The answers as a bundle has them, and the recipe's cost, into the cache."""
        golden, name = expected.answers[encoding].exact, encoding.name
        floats = replace(golden, outputs=expected.floats)
        scale = self.codes[encoding].stream_scale
        cost = Cost(
            quantization_cost(name, expected.floats, golden, self.proof.bounds),
            float_reading(golden, expected.floats),
            reading(name, "", FLOAT_WEIGHTS, floats, golden.outputs),
            layer_errors(name, expected.float_stream, expected.streams[encoding], scale),
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
