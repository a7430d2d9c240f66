"""Sensitivity: what the few bits of each linear cost by themselves, on calibration text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from slmkit.activations.observe import calibration_runs
from slmkit.checkpoint.folder import Checkpoint, open_checkpoint
from slmkit.evaluation.sources import against_answers, float_answers, reference_logits
from slmkit.evaluation.text import EvaluationText, windows_of
from slmkit.interpreters.reference import Weights
from slmkit.models.names import layer_of
from slmkit.ops import Floats
from slmkit.planning.allocation import allocated, coarse, named_first
from slmkit.planning.calibration import calibration_texts
from slmkit.planning.codes import codes_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.prepare import prepare
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.system.cache import Cache, CacheChoice, key_of, opened_cache
from slmkit.system.progress import Progress, Silent

TOKENS = 512  # of calibration text
WINDOW = 128  # tokens of a text that are read
COLUMNS = 4096  # logits of each position that are compared
FILE = "kl.json"


@dataclass(frozen=True)
class Sensitivity:
    """The cost of one matrix in the recipe's bits, rounded to nearest, all others in float32."""

    name: str
    layer: int | None
    parameters: int
    bits: int
    kl: float  # nats, mean over positions

    @property
    def kind(self) -> str:
        """The last part of the name: ``v_proj``; of experts, without their numbers."""
        *_, last = (part for part in self.name.split(".") if not part.isdigit())
        return last

    @property
    def per_million(self) -> float:
        """KL per million weights."""
        return self.kl / self.parameters * 1e6


class OneQuantized:
    """Float weights, with one matrix out of a codes file."""

    def __init__(self, floats: Weights, codes: Weights, name: str) -> None:
        self.floats, self.codes, self.tensor = floats, codes, f"{name}.weight"

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias, (width,)."""
        return self.floats.vector(tensor)

    def rows(self, tensor: str, rows: Any) -> Floats:
        """``rows`` of a matrix, (len(rows), K)."""
        return (self.codes if tensor == self.tensor else self.floats).rows(tensor, rows)

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix in consecutive blocks of rows: (first row, block)."""
        return (self.codes if tensor == self.tensor else self.floats).blocks(tensor)


def sensitivities(
    checkpoint: Checkpoint,
    recipe: Recipe,
    texts: Sequence[Sequence[int]],
    cache: Cache,
    progress: Progress,
    tokens: int = TOKENS,
) -> tuple[Sensitivity, ...]:
    """Of every linear that the recipe gives fewer than 8 bits, in the order of the model.

    Each is one pass of the model over about ``tokens`` tokens; what is measured stays in the cache.
    """
    bits, model = coarse(checkpoint.model, recipe), checkpoint.model
    schemes = {name: each.without_text for name, each in matrix_schemes(model, recipe).items()}
    read = calibration_runs(texts, tokens=recipe.calibration.tokens)  # as the build reads it
    # Rounded codes have no balanced channels.
    plain = recipe.calibration.model_copy(update={"balance": False})
    recipe = recipe.model_copy(update={"calibration": plain})
    prepared = prepare(checkpoint, recipe, read, cache, progress)
    codes = codes_of(checkpoint, schemes, cache, progress, prepared)
    floats, spec = prepared.weights(checkpoint, schemes), checkpoint.spec.scaled(codes.stream_scale)
    text = windows_of(calibration_runs(texts, WINDOW, tokens))
    progress.stage("sensitivity", len(bits) + 1)
    expected = float_answers(reference_logits(floats, spec, text.sequences), text, COLUMNS)
    progress.advance(1)

    def measured(name: str) -> float:
        logits = reference_logits(OneQuantized(floats, codes, name), spec, text.sequences)
        return float(against_answers(expected, logits, text).kl)

    found = []
    for name, few in bits.items():
        rows, width = model.shapes[name]
        key = key_of([codes.key, name, _facts(text)])
        kl = _cached(cache, key, partial(measured, name))
        found.append(Sensitivity(name, layer_of(name), rows * width, few, kl))
        progress.advance(1)
    return tuple(found)


def with_budget(
    checkpoint: Checkpoint,
    recipe: Recipe,
    texts: Sequence[Sequence[int]],
    cache: Cache,
    progress: Progress,
) -> Recipe:
    """A recipe whose ``bits_budget`` has become rules, measured where names do not decide."""
    if recipe.bits_budget is None:
        return recipe
    _, more = named_first(checkpoint.model, recipe)
    if not more:
        return allocated(recipe, checkpoint.model)
    found = sensitivities(checkpoint, recipe, texts, cache, progress)
    return allocated(recipe, checkpoint.model, {each.name: each.kl for each in found})


def sensitivity(
    model: str | Path,
    *,
    recipe: str | Recipe = "int4",
    calibration: str | Path | None = None,
    tokens: int = TOKENS,
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> tuple[Sensitivity, ...]:
    """Measure what the recipe's few bits cost in each linear of a checkpoint by itself.

    ``calibration``: text, or JSONL of messages; the checkpoint's own, or ours, by default.
    ``tokens``: how many of it, about, are read for each linear.

    Raises CheckpointError, RecipeError.
    """
    given = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    checkpoint = open_checkpoint(Path(model))
    texts = calibration_texts(checkpoint, None if calibration is None else Path(calibration))
    with opened_cache(cache) as place:
        return sensitivities(checkpoint, given, texts, place, progress or Silent(), tokens)


def _facts(text: EvaluationText) -> list[list[int]]:
    return [ids.tolist() for ids in text.sequences]


def _cached(cache: Cache, key: str, measure: Callable[[], float]) -> float:
    entry = cache.find("sensitivity", key)
    if entry is not None:
        kl: float = json.loads((entry / FILE).read_text(encoding="utf-8"))
        return kl
    kl = measure()
    with cache.making("sensitivity", key) as making:
        (making / FILE).write_text(json.dumps(kl), encoding="utf-8")
    return kl
