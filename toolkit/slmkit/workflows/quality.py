"""Hold codes and artifacts against the float model on held-out text: the gate of a build."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from slmkit.activations.observe import Runs, calibration_runs
from slmkit.backend.artifact import PROOF
from slmkit.backend.declaration import QUANTIZATION
from slmkit.checkpoint.folder import Checkpoint
from slmkit.errors import SlmkitError
from slmkit.evaluation.answers_file import load_answers, save_answers
from slmkit.evaluation.chance import Margin, is_trained
from slmkit.evaluation.divergence import KEPT, Divergence, Expected, divergence, perplexity
from slmkit.evaluation.gate import RANDOM, Quality, QualityLine, gate_bound, judged
from slmkit.evaluation.held_out import artifact_tokens
from slmkit.evaluation.sources import float_answers, reference_logits, scores_against
from slmkit.evaluation.text import EvaluationText, windows_of
from slmkit.parity.metrics import significant
from slmkit.parity.proof import HeldOut, Proof
from slmkit.parity.references import CODES, RUNTIME
from slmkit.quant.codes import CodesFile
from slmkit.recipe.bounds import Bound
from slmkit.recipe.recipe import Recipe
from slmkit.system.cache import Cache, key_of
from slmkit.system.progress import Progress, Silent
from slmkit.system.source import source_digest

TEXT = f"{PROOF}/held_out.json"  # the token ids that were read, in a bundle
NOISE_WINDOW, NOISE_TOKENS = 64, 512  # of calibration text that is read, to see whether it is text
FLOATS, DIVERGENCE = "floats", "divergence"  # kinds of entries in the cache
FILE, MARGIN = "found.json", "margin.json"
_DIVERGENCES = TypeAdapter(tuple[Divergence, Divergence])
ANSWERS = "held_out.npz"  # the float model's answers, while a build lasts


@dataclass(frozen=True)
class Remembered:
    """The divergences of codes that a cache keeps, of one float model on one text."""

    cache: Cache | None
    key: str  # of the float model's answers

    def divergences(
        self, codes: str, measured: Callable[[], tuple[Divergence, Divergence]]
    ) -> tuple[Divergence, Divergence]:
        """Those of the codes with this key, on the whole text and on its part: kept, or now."""
        if self.cache is None:
            return measured()
        key = key_of([self.key, codes])
        entry = self.cache.find(DIVERGENCE, key)
        if entry is not None:
            return _DIVERGENCES.validate_json((entry / FILE).read_text(encoding="utf-8"))
        found = measured()
        with self.cache.making(DIVERGENCE, key) as making:
            (making / FILE).write_bytes(_DIVERGENCES.dump_json(found))
        return found


@dataclass
class Gate:
    """The float model's answers on held-out text, and what was measured against them."""

    text: EvaluationText
    expected: Expected
    recipe: Recipe  # with the bound of quantization that holds
    trained: bool
    part: EvaluationText  # of the text, which artifacts read
    spans: list[slice]  # of the part's positions among all
    file: HeldOut | None  # for the processes that run artifacts; None: weights are random
    vocabulary: int
    margin: float  # of the token that follows
    remembered: Remembered
    lines: list[QualityLine] = field(default_factory=list)
    codes: dict[str, tuple[Divergence, Divergence]] = field(default_factory=dict)  # by artifact:
    # those that it holds, on the whole text and on the part

    @property
    def bound(self) -> Bound:
        """The bound of every line."""
        return gate_bound(self.recipe.parity[QUANTIZATION])

    def measure_codes(
        self,
        name: str,
        artifacts: Iterable[str],
        codes: CodesFile,
        checkpoint: Checkpoint,
        progress: Progress,
    ) -> None:
        """Read the text with the reference on an encoding's codes, which ``artifacts`` hold."""
        if not self.trained:
            return
        progress.stage(f"{name} codes on held-out text", self.text.tokens)

        def measured() -> tuple[Divergence, Divergence]:
            spec = checkpoint.spec.scaled(codes.stream_scale)
            pieces = reference_logits(codes, spec, self.text.sequences, progress.advance)
            scores = scores_against(self.expected, pieces, self.text)
            columns = self.expected.values.shape[1]
            return divergence(scores, columns), divergence(scores.part(self.spans), columns)

        whole, on_part = self.remembered.divergences(codes.key, measured)
        self.codes |= dict.fromkeys(artifacts, (whole, on_part))
        self.lines.append(judged(name, CODES, RUNTIME, whole, self.bound))

    def quality(self, proof: Proof | None = None) -> Quality:
        """The report of what was measured, artifacts of a proof included."""
        measured, missing = ([], ()) if proof is None else (proof.measured, _missing(proof))
        lines = [
            judged(name, mode, runtime, self._on_whole(name, found), self.bound)
            for name, mode, runtime, found in measured
        ]
        return Quality(
            windows=len(self.text.windows),
            tokens=self.text.tokens,
            positions=self.text.positions,
            part_positions=self.part.positions,
            vocabulary=self.vocabulary,
            float_perplexity=significant(perplexity(self.expected.log_next), 4),
            margin=significant(self.margin),
            trained=self.trained,
            bound=self.bound,
            lines=(*self.lines, *lines),
            not_executed=missing if self.trained else (),
        )

    def _on_whole(self, artifact: str, found: Divergence) -> Divergence:
        """An artifact's divergence on the whole text, by that of the codes that it holds."""
        whole, part = self.codes[artifact]
        return found.on_whole(part, whole)


def open_gate(
    checkpoint: Checkpoint,
    recipe: Recipe,
    text: EvaluationText,
    scratch: Path,
    progress: Progress,
    cache: Cache | None = None,
) -> Gate:
    """Read the text with the float model, and see whether it is trained: if not, a recipe without
    a bound of quantization gets the one for random weights.

    ``cache``: where an earlier build may have left the float model's answers, and this one leaves
    them.
    """
    spec = checkpoint.spec
    expected, margin, key = _float_answers(checkpoint, text, progress, cache)
    file = None
    trained = is_trained(perplexity(expected.log_next), spec.vocabulary, margin)
    part, spans = text.part(artifact_tokens(checkpoint.model.parameters))
    if trained:
        file = HeldOut(scratch / ANSWERS, part.tokens, recipe.prefill_chunk)
        save_answers(expected.part(spans), part, file.path)
    elif recipe.parity[QUANTIZATION] == Bound():
        bounds: Mapping[str, Bound] = {**recipe.parity, QUANTIZATION: RANDOM}
        recipe = recipe.model_copy(update={"parity": bounds})
    about = Remembered(cache, key)
    vocabulary = spec.vocabulary
    return Gate(text, expected, recipe, trained, part, spans, file, vocabulary, margin, about)


def _float_answers(
    checkpoint: Checkpoint, text: EvaluationText, progress: Progress, cache: Cache | None
) -> tuple[Expected, float, str]:
    """The float model's answers, its margin, and the key of both."""
    read = [[window.ids.tolist(), window.first] for window in text.windows]
    code, spec = source_digest("slmkit"), checkpoint.spec
    key = key_of([checkpoint.shards.fingerprint, asdict(spec), read, KEPT, code, np.__version__])
    progress.stage("float model on held-out text", text.tokens)
    entry = cache.find(FLOATS, key) if cache else None
    if entry is not None:
        expected, _ = load_answers(entry / ANSWERS)
        return expected, float(json.loads((entry / MARGIN).read_text())), key
    pieces = reference_logits(checkpoint.shards, spec, text.sequences, progress.advance)
    margin = Margin(text)
    expected = float_answers(margin.watch(pieces), text, KEPT)
    if cache is not None:
        with cache.making(FLOATS, key) as making:
            save_answers(expected, text, making / ANSWERS)
            (making / MARGIN).write_text(json.dumps(margin.mean))
    return expected, margin.mean, key


def refuse_noise(checkpoint: Checkpoint, runs: Runs, cache: Cache | None = None) -> None:
    """Raise SlmkitError for calibration text that a trained model predicts no better than chance.

    Codes that are chosen on random ids are hardly better than rounded ones.
    """
    text = windows_of(calibration_runs(runs, NOISE_WINDOW, NOISE_TOKENS))
    if not text.positions:
        return
    expected, margin, _ = _float_answers(checkpoint, text, Silent(), cache)
    found = perplexity(expected.log_next)
    if not is_trained(found, checkpoint.spec.vocabulary, margin):
        raise SlmkitError(
            f"the calibration text is noise to this model: perplexity {found:.4g} of a vocabulary "
            f"of {checkpoint.spec.vocabulary}",
            "give text that the model was made for with --calibration, or leave it out",
        )


def _missing(proof: Proof) -> tuple[str, ...]:
    """Modes that apps run and that did not read the text, as they are too slow here, in words."""
    read = {name: mode for name, mode, *_ in proof.measured}
    found = []
    for name, artifact in proof.artifacts.items():
        wanted, slow = artifact.default_mode, "which is too slow here for held-out text"
        if name not in read:
            found.append(f"{name} {wanted}, {slow}")
        elif read[name] != wanted:
            found.append(f"{name} {wanted}, {slow}: {read[name]} read it instead")
    return tuple(found)
