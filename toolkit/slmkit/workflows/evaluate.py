"""Evaluate an artifact, a recipe's codes or a checkpoint, on text or on answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.bundle.manifest import read_manifest
from slmkit.checkpoint.folder import SAMPLE_MODEL, Checkpoint, open_checkpoint
from slmkit.errors import UsageError
from slmkit.evaluation.divergence import Divergence
from slmkit.evaluation.flips import Flips, flips
from slmkit.evaluation.sources import (
    Pieces,
    Report,
    reference_logits,
    runner_logits,
    side_by_side,
    silent,
)
from slmkit.evaluation.text import TOKENS, WINDOW, Ids, evaluation_text
from slmkit.inference.evaluate import Score
from slmkit.inference.load import (
    CHUNK,
    ReferenceRunner,
    float_session,
    is_bundle,
    load_bundle,
)
from slmkit.inference.session import Session
from slmkit.parity.metrics import to_json
from slmkit.planning.memory import default_context
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.system.cache import Cache, CacheChoice, opened_cache
from slmkit.system.progress import Progress, Silent
from slmkit.workflows.codes import checkpoint_of, recipe_codes

PathLike = str | Path


@dataclass(frozen=True)
class TextScore:
    """A model on a text, beside the float model that it is compared with."""

    about: str  # which model, on which runtime
    against: str | None  # the float model; None: the model is the float model itself
    windows: int  # parts of the text, each read from an empty cache
    tokens: int  # of all windows
    divergence: Divergence


@dataclass(frozen=True)
class AnswerScore:
    """A model's answers; with the float model's, the ones that changed."""

    about: str
    score: Score
    float_score: Score | None  # None: not asked for
    flips: Flips | None  # the float model first


def evaluate_text(
    path: PathLike,
    *,
    artifact: str | None = None,
    mode: str | None = None,
    recipe: str | Recipe | None = None,
    model: PathLike | None = None,
    adapters: Sequence[PathLike] = (),
    data: PathLike | None = None,
    window: int = WINDOW,
    tokens: int = TOKENS,
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> TextScore:
    """Perplexity of a bundle's artifact or a checkpoint on a text, and its divergence from the
    float model: KL in nats, the same best token as a share, both perplexities, changed tokens.

    ``recipe``: of a checkpoint, judge its codes under this recipe (with ``artifact``, those of
    that artifact). ``model``: the float checkpoint to compare with; by default the checkpoint
    itself; for a bundle, the checkpoint that it was built from, unless that is the sample model.
    ``adapters``: LoRA adapters that are merged into the checkpoint that is judged; of a bundle,
    into the float model.
    ``data``: plain text, or JSONL of messages or texts; by default slmkit's own held-out text.
    ``window``, ``tokens``: most tokens that are read from an empty cache, and in all.

    Raises BundleError, CheckpointError, RecipeError, UsageError.
    """
    progress, folder, merged = progress or Silent(), Path(path), paths_of(adapters)
    with opened_cache(cache) as place:
        judged = judged_session(folder, artifact, mode, recipe, place, progress, merged)
        floats = _floats(folder, recipe, None if model is None else Path(model), merged)
        room = min(window, judged.runner.context_length)
        text = evaluation_text(judged.tokenizer, Path(data) if data else None, room, tokens)
        progress.stage("read the text", text.tokens)
        got = logits_of(judged, text.sequences, progress.advance)
        if floats is None:
            theirs, got = itertools.tee(got)
        else:
            check_alike(judged, floats)
            theirs = logits_of(floats, text.sequences)
        found = side_by_side(theirs, got, text)
    against = None if floats is None else floats.about
    return TextScore(judged.about, against, len(text.windows), text.tokens, found)


def evaluate_answers(
    path: PathLike,
    *,
    artifact: str | None = None,
    mode: str | None = None,
    recipe: str | Recipe | None = None,
    model: PathLike | None = None,
    adapters: Sequence[PathLike] = (),
    data: PathLike | None = None,
    limit: int | None = None,
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> AnswerScore:
    """Exact match on a JSONL file of {"prompt", "answer"}; arguments as of ``evaluate_text``.

    With ``model``, the float checkpoint answers too, slowly, and answers that are right in one of
    the two alone are counted. ``limit``: only the first examples.
    """
    progress, folder, merged = progress or Silent(), Path(path), paths_of(adapters)
    if model is None:
        refuse_adapters(folder, merged)
    with opened_cache(cache) as place:
        judged = judged_session(folder, artifact, mode, recipe, place, progress, merged)
        score = judged.evaluate(data, limit=limit, progress=progress)
        floats = None if model is None else _floats(folder, recipe, Path(model), merged)
        if floats is None:
            return AnswerScore(judged.about, score, None, None)
        expected = floats.evaluate(data, limit=limit, progress=progress)
    changed = flips(np.asarray(expected.items), np.asarray(score.items))
    return AnswerScore(judged.about, score, expected, changed)


def evaluation_to_json(found: Any) -> dict[str, Any]:
    """Any of the results for ``--json``; the counts of answers stand beside the rest. NaN becomes
    null."""
    values = to_json(found)
    return {**values.pop("score", {}), **values}


def logits_of(session: Session, sequences: Sequence[Ids], report: Report = silent) -> Pieces:
    """A session's logits of token ids, each sequence from an empty cache, piece by piece."""
    runner = session.runner
    if isinstance(runner, ReferenceRunner):  # many sequences through each weight at once
        return reference_logits(runner.weights, runner.spec, sequences, report)
    return runner_logits(runner, sequences, session.chunk, report)


def judged_session(
    folder: Path,
    artifact: str | None,
    mode: str | None,
    recipe: str | Recipe | None,
    cache: Cache,
    progress: Progress,
    adapters: Sequence[Path] = (),
) -> Session:
    """The model that is evaluated: an artifact, a checkpoint, or its codes under a recipe.

    Raises BundleError, CheckpointError, RecipeError, UsageError.
    """
    if is_bundle(folder):
        if recipe is not None:
            raise UsageError(
                f"{folder} is a bundle, which has its recipe", "--recipe is for a checkpoint"
            )
        return load_bundle(folder, artifact, mode, cache)
    checkpoint = open_checkpoint(folder, adapters=adapters)
    if recipe is None:
        if artifact is not None:
            raise UsageError(
                f"{folder} is a checkpoint, which has no artifact {artifact!r}",
                "give a bundle, or a --recipe: its rules for that artifact then hold",
            )
        return float_session(checkpoint)
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    checkpoint = at_build_context(checkpoint, chosen)
    codes = recipe_codes(checkpoint, chosen, artifact, cache, progress)
    runner = ReferenceRunner(codes, checkpoint.spec.scaled(codes.stream_scale))
    about = f"{checkpoint.name}, {chosen.name} codes, {runner.runtime}"
    return Session(runner, checkpoint.tokenizer, CHUNK, about)


def _floats(
    folder: Path, recipe: str | Recipe | None, model: Path | None, adapters: Sequence[Path] = ()
) -> Session | None:
    """The float model to compare with; None if it is the judged one itself."""
    if is_bundle(folder):
        manifest = read_manifest(folder)
        if model is None:
            sample = open_checkpoint(SAMPLE_MODEL)
            if sample.shards.fingerprint != manifest.model.checkpoint_sha256:
                raise UsageError(
                    f"{folder} does not hold the float model to compare with",
                    "name the checkpoint that it was built from with --model",
                )
            model = SAMPLE_MODEL
        return float_session(checkpoint_of(manifest, model, adapters))
    if model is None and recipe is None:
        return None
    checkpoint = open_checkpoint(model or folder, adapters=() if model else adapters)
    if recipe is None:
        return float_session(checkpoint)
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    return float_session(at_build_context(checkpoint, chosen))


def paths_of(folders: Sequence[PathLike]) -> tuple[Path, ...]:
    """Folders as paths."""
    return tuple(map(Path, folders))


def refuse_adapters(folder: Path, adapters: Sequence[Path]) -> None:
    """Raise UsageError for adapters that nothing would read: a bundle holds its own."""
    if adapters and is_bundle(folder):
        raise UsageError(
            f"{folder} is a bundle: an adapter cannot be merged into its codes",
            "build the checkpoint with --adapter; for one beside a bundle see `slmkit adapter`",
        )


def at_build_context(checkpoint: Checkpoint, recipe: Recipe) -> Checkpoint:
    """A checkpoint at the context length that a build would give it."""
    return checkpoint.at_context(default_context(checkpoint.spec, recipe, None))


def check_alike(judged: Session, floats: Session) -> None:
    """Raise UsageError unless both models read and predict the same tokens."""
    names, sizes = [], []
    for each in (judged, floats):
        names.append(each.tokenizer.library.get_vocab())
        if isinstance(each.runner, ReferenceRunner):
            sizes.append(each.runner.spec.vocabulary)
    if names[0] != names[1] or len(set(sizes)) > 1:
        raise UsageError("the two models have different tokens", "compare models of one tokenizer")
