"""Put two bundles, recipes or checkpoints side by side: size, memory, quality, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slmkit.backend.registry import find_backend
from slmkit.bundle.manifest import Manifest, read_manifest
from slmkit.checkpoint.folder import SAMPLE_MODEL, Checkpoint, open_checkpoint
from slmkit.errors import UsageError
from slmkit.evaluation.divergence import KEPT, Divergence, Scores, divergence
from slmkit.evaluation.flips import Flips, flips
from slmkit.evaluation.sources import float_answers, scores_against
from slmkit.evaluation.text import TOKENS, WINDOW, EvaluationText, evaluation_text
from slmkit.harness.run import TaskReport, TaskRequest, run_tasks
from slmkit.inference.evaluate import Score
from slmkit.inference.load import ReferenceRunner, float_session, is_bundle
from slmkit.inference.session import Session
from slmkit.inference.speed import ROUNDS, decode_speeds
from slmkit.planning.allocation import allocated
from slmkit.planning.memory import matrix_schemes, plan_memory
from slmkit.planning.plan import costs_of
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.system.cache import Cache, CacheChoice, opened_cache
from slmkit.system.progress import Progress, Silent
from slmkit.workflows.evaluate import at_build_context, check_alike, judged_session, logits_of

PathLike = str | Path


@dataclass(frozen=True)
class Measured:
    """One of the two models."""

    name: str  # as it was given
    about: str  # which artifact, on which runtime
    size: int  # bytes on disk: of the artifact; of a recipe, as a build would write it
    memory: int | None  # bytes that an app needs; None for a checkpoint, which no app runs
    divergence: Divergence  # on the text
    answers: Score | None  # exact match, if asked for
    tasks: TaskReport | None  # of lm-evaluation-harness, if asked for
    decode: float | None  # tokens per second on this machine; None for the NumPy reference


@dataclass(frozen=True)
class Compared:
    """Two models side by side. In flips the first model stands first."""

    against: str  # the model from which divergences are measured
    tokens: int  # of the text
    first: Measured
    second: Measured
    flips: Flips  # of the text's tokens: whether the best token is the one that follows
    answer_flips: Flips | None
    task_flips: Mapping[str, Flips]  # by task and metric, of metrics that are right or wrong


@dataclass(frozen=True)
class _Side:
    """One of the two models, opened."""

    name: str
    session: Session
    size: int
    memory: int | None
    checkpoint: Checkpoint | None  # None: a bundle
    manifest: Manifest | None

    @property
    def is_float(self) -> bool:
        """Whether it is a checkpoint as it is."""
        return self.checkpoint is not None and self.memory is None


def compare(
    first: PathLike | Recipe,
    second: PathLike | Recipe,
    *,
    model: PathLike | None = None,
    artifact: str | None = None,
    mode: str | None = None,
    text: PathLike | None = None,
    tokens: int = TOKENS,
    window: int = WINDOW,
    answers: PathLike | None = None,
    tasks: TaskRequest | None = None,
    limit: int | None = None,
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> Compared:
    """Measure two models in one run: bundles or checkpoints by folder, recipes by name, file or
    object, of the checkpoint ``model``.

    Divergence on ``text`` is measured from the float model: ``model``, else the checkpoint that
    is compared, else the sample model if a bundle was built from it, else from ``first`` itself.
    ``artifact``: of bundles, the first by default; of recipes, the rules and sizes for it.
    ``answers``: JSONL of prompts and answers, ``limit`` of them. ``tasks``: of
    lm-evaluation-harness. Others as of ``evaluate_text``.

    Raises BundleError, CheckpointError, RecipeError, UsageError.
    """
    progress = progress or Silent()
    with opened_cache(cache) as place:
        base = None if model is None else Path(model)
        sides = [_opened(each, base, artifact, mode, place, progress) for each in (first, second)]
        sessions = [side.session for side in sides]
        check_alike(*sessions)
        floats = _float_model(base, sides)
        check_alike(sessions[0], floats)
        room = min(window, *(each.runner.context_length for each in sessions))
        read = evaluation_text(sessions[0].tokenizer, Path(text) if text else None, room, tokens)
        scores, columns = _scores(sessions, floats, read, progress)
        scored = [_answers(each, answers, limit, progress) for each in sessions]
        reports = [None if tasks is None else run_tasks(each, tasks, progress) for each in sessions]
        speeds = _speeds(sessions, read, progress)
    one, other = (
        Measured(
            side.name,
            side.session.about,
            side.size,
            side.memory,
            divergence(scores[at], columns),
            scored[at],
            reports[at],
            speeds[at],
        )
        for at, side in enumerate(sides)
    )
    changed = flips(scores[0].right_got, scores[1].right_got)
    return Compared(
        floats.about, read.tokens, one, other, changed, _answer_flips(scored), _task_flips(reports)
    )


def _opened(
    given: PathLike | Recipe,
    model: Path | None,
    artifact: str | None,
    mode: str | None,
    cache: Cache,
    progress: Progress,
) -> _Side:
    """A bundle or a checkpoint by its folder, or a recipe of the checkpoint ``model``."""
    if not isinstance(given, Recipe) and Path(given).is_dir():
        folder = Path(given)
        if is_bundle(folder):
            session = judged_session(folder, artifact, mode, None, cache, progress)
            return _bundle(folder, artifact, session)
        checkpoint = open_checkpoint(folder)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        return _Side(str(given), float_session(checkpoint), size, None, checkpoint, None)
    if model is None:
        raise UsageError(
            f"{given if not isinstance(given, Recipe) else given.name} is no folder",
            "give a bundle or a checkpoint; for a recipe, name its checkpoint with --model",
        )
    recipe = given if isinstance(given, Recipe) else load_recipe(str(given))
    session = judged_session(model, artifact, mode, recipe, cache, progress)
    checkpoint = at_build_context(open_checkpoint(model), recipe)
    size, memory = _planned(checkpoint, recipe, artifact)
    return _Side(recipe.name, session, size, memory, checkpoint, None)


def _bundle(folder: Path, name: str | None, session: Session) -> _Side:
    """A bundle's artifact; its bytes are those of its own folder."""
    manifest = read_manifest(folder)
    artifact = manifest.artifact(name)
    inside = f"{artifact.folder}/"
    size = sum(file.size for file in manifest.files if file.path.startswith(inside))
    return _Side(str(folder), session, size, artifact.memory.total, None, manifest)


def _planned(checkpoint: Checkpoint, recipe: Recipe, artifact: str | None) -> tuple[int, int]:
    """Bytes of files with weights, and of an app's memory, before anything is built."""
    recipe = allocated(recipe, checkpoint.model)
    context = checkpoint.spec.rope_context
    if artifact is None:
        memory = plan_memory(checkpoint.model, recipe, context)
        return memory.weights, memory.total
    schemes = matrix_schemes(checkpoint.model, recipe, artifact)
    files = find_backend(artifact).weight_files(
        checkpoint.model, schemes, recipe.options(artifact), context
    )
    memory = plan_memory(checkpoint.model, recipe, context, costs_of(artifact, recipe))
    return sum(file.size for file in files), memory.total


def _float_model(model: Path | None, sides: Sequence[_Side]) -> Session:
    """The model from which divergences are measured."""
    contexts = [side.session.runner.context_length for side in sides if not side.is_float]
    found = None if model is None else open_checkpoint(model)
    if found is None:
        found = next((side.checkpoint for side in sides if side.is_float), None)
    if found is None:
        sample = open_checkpoint(SAMPLE_MODEL)
        plain = [
            each.manifest for each in sides if each.manifest and not each.manifest.model.adapters
        ]
        built = [manifest.model.checkpoint_sha256 for manifest in plain]
        found = sample if sample.shards.fingerprint in built else None
    if found is None:
        return sides[0].session
    return float_session(found.at_context(min(contexts)) if contexts else found)


def _scores(
    sessions: Sequence[Session], floats: Session, text: EvaluationText, progress: Progress
) -> tuple[list[Scores], int]:
    """Each model against the float model at every position; and the logits that were compared."""
    progress.stage("read the text", text.tokens * (1 + len(sessions)))
    pieces = logits_of(floats, text.sequences, progress.advance)
    expected = float_answers(pieces, text, KEPT)
    scores = [
        scores_against(expected, logits_of(each, text.sequences, progress.advance), text)
        for each in sessions
    ]
    return scores, expected.values.shape[1]


def _answers(
    session: Session, data: PathLike | None, limit: int | None, progress: Progress
) -> Score | None:
    return None if data is None else session.evaluate(data, limit=limit, progress=progress)


def _speeds(
    sessions: Sequence[Session], text: EvaluationText, progress: Progress
) -> list[float | None]:
    """Of the models that have a runtime of their own, in turns."""
    real = [each for each in sessions if not isinstance(each.runner, ReferenceRunner)]
    if not real:
        return [None for _ in sessions]
    progress.stage("decode", len(real) * (1 + ROUNDS))
    prompt = max(text.sequences, key=len)
    chunk = min(each.chunk for each in real)
    rates = iter(decode_speeds([each.runner for each in real], prompt, chunk, progress.advance))
    return [None if isinstance(each.runner, ReferenceRunner) else next(rates) for each in sessions]


def _answer_flips(scores: Sequence[Score | None]) -> Flips | None:
    items = [np.asarray(each.items) for each in scores if each is not None]
    return flips(*items) if items else None


def _task_flips(reports: Sequence[TaskReport | None]) -> dict[str, Flips]:
    """Of every metric of a task by which an example is right or wrong."""
    first, second = ({} if each is None else dict(each.right) for each in reports)
    return {
        label: flips(np.asarray(first[label]), np.asarray(second[label]))
        for label in first
        if label in second
    }
