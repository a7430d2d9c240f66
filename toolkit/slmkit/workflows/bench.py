"""Measure a bundle: speed, load time and memory of each artifact, and if its tokens are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import __version__
from slmkit.backend.artifact import artifact_to_json
from slmkit.backend.registry import declaration_of, require_packages
from slmkit.bundle.manifest import BundledArtifact, Manifest, read_manifest
from slmkit.bundle.verify import verify_loaded
from slmkit.devices.by_app import joined, rest_by_app
from slmkit.devices.elsewhere import APP as NO_APP
from slmkit.devices.elsewhere import can_go, divided, mode_as_it_ships, remote
from slmkit.devices.local import available_cores, load_average, this_device
from slmkit.devices.losses import judged_beside_build, loss_notices
from slmkit.devices.peers import peer_kind
from slmkit.devices.places.app import APP, app_of, checked_id
from slmkit.devices.places.place import Place
from slmkit.devices.places.where import LOCAL, place_of
from slmkit.devices.report import DeviceReport, ranked
from slmkit.devices.self_test import prove_by_app
from slmkit.devices.turns import Candidate, take_turns
from slmkit.errors import MissingPackageError, RefusedError, UsageError
from slmkit.inference.speed import DECODED
from slmkit.parity.golden_file import load_golden
from slmkit.system.progress import Progress, Silent

PathLike = str | Path
LENGTHS = (32, 128, 512)  # tokens of prompts: those that fit into the context
REPEATS = 5  # processes of each model, in turns
LEAST_REPEATS = 3  # below, a median and a spread say nothing


@dataclass(frozen=True)
class Settings:
    """How a benchmark is done."""

    lengths: tuple[int, ...]  # tokens of the prompts
    decode: int  # tokens that are decoded after each
    repeats: int
    threads: int


ONCE = Settings(lengths=(), decode=0, repeats=1, threads=0)  # parity alone


def benchmark(
    bundle: PathLike,
    *,
    artifacts: Sequence[str] = (),
    lengths: Sequence[int] = (),
    tokens: int = DECODED,
    repeats: int = REPEATS,
    threads: int | None = None,
    against: Sequence[PathLike] = (),
    on: str = LOCAL,
    progress: Progress | None = None,
) -> DeviceReport:
    """Measure the artifacts of a bundle, each in a process of its own: those whose runtime runs on
    this computer, or those that run in another place, ``on``.

    Models take turns, ``repeats`` times, so that a busy machine slows all of them. ``lengths``: of
    prompts in tokens, after each of which ``tokens`` are decoded. ``threads``: all cores by
    default. ``against``: peers' models, measured beside them, and never judged.

    A run whose tokens break a bound of the bundle's recipe is marked and never ranked. A model
    whose process fails is named in the report. Raises BundleError, UsageError, MissingPackageError
    for a peer without its runtime, RefusedError if no artifact of the bundle can be measured,
    BackendError if every process fails.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    settings = _settings(manifest, lengths, tokens, repeats, threads)
    if on != LOCAL and against:
        raise UsageError(f"peers run on this computer, not on {on}", "leave out --against")
    for path in against:
        peer_kind(Path(path))
    if on != LOCAL:
        place = place_of(on)
        settings = replace(settings, threads=threads or 0)  # 0: as many as there are cores there
        chosen, left_out = can_go(manifest, artifacts, place)
        candidates = [_candidate(folder, manifest, each, settings, place) for each in chosen]
    else:
        chosen, left_out = _measurable(manifest, artifacts)
        candidates = [_candidate(folder, manifest, each, settings) for each in chosen]
    ids = candidates[0].payload["ids"]
    candidates += [_peer(Path(path), ids, manifest, settings) for path in against]
    return _measured(manifest, candidates, left_out, settings.repeats, progress or Silent())


def prove_on(
    bundle: PathLike,
    on: str,
    *,
    artifacts: Sequence[str] = (),
    app: str = APP,
    progress: Progress | None = None,
) -> DeviceReport:
    """Compare artifacts that run in another place, ``on``, with the reference: once, no speeds but
    those of the golden prompts. ``app``: the id of the app whose self-test runs there, and on a
    phone of adb what cannot be sent.

    Raises BundleError, UsageError, RefusedError if nothing of the bundle can be sent there,
    BackendError if every process fails.
    """
    if on == LOCAL:
        raise UsageError("parity on this computer is no work for a place", "call Bundle.recheck()")
    folder = Path(bundle)
    manifest = read_manifest(folder)
    if (there := app_of(on, checked_id(app))) is not None:
        return prove_by_app(folder, manifest, there, artifacts)
    place = place_of(on)
    chosen, unsent = divided(manifest, artifacts, place)
    by_app, left_out = rest_by_app(folder, manifest, place, unsent, app)
    if not chosen:
        if by_app is None:
            raise RefusedError(f"nothing of this bundle can be sent: {'; '.join(left_out)}", NO_APP)
        return by_app
    candidates = [_candidate(folder, manifest, each, ONCE, place) for each in chosen]
    sent = _measured(manifest, candidates, left_out, 1, progress or Silent())
    return sent if by_app is None else joined(sent, by_app)


def _measured(
    manifest: Manifest,
    candidates: Sequence[Candidate],
    left_out: Sequence[str],
    repeats: int,
    progress: Progress,
) -> DeviceReport:
    """Let the candidates take their turns."""
    busy, device, thermal = load_average(), this_device(), None
    take_turns(candidates, manifest.recipe.parity, repeats, progress)
    failed = [f"{each.name}: {each.failed.message}" for each in candidates if each.failed]
    for each in candidates:
        _beside_build(manifest, each)
    there = next((each.remote for each in candidates if each.remote and each.results), None)
    if there is not None:
        device, busy, thermal = there.device, there.facts["busy"], there.facts["thermal"]
    runs = [each.run() for each in candidates if each.failed is None]
    return DeviceReport(
        slmkit=__version__,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device,
        model=manifest.model.name,
        parameters=manifest.model.parameters,
        recipe=manifest.recipe.name,
        runs=ranked(runs, bool(device.emulated)),
        not_executed=(*left_out, *failed),
        busy=busy,
        thermal=thermal,
    )


def _beside_build(manifest: Manifest, each: Candidate) -> None:
    """Judge the tokens of a device beside those of the computer of the build."""
    if each.remote is None or each.tokens is None or each.artifact is None:
        return
    about = manifest, manifest.artifact(each.name), each.payload["mode"]
    features = each.remote.device.cpu_features
    each.tokens = judged_beside_build(*about, each.tokens, features)
    elsewhere = declaration_of(each.name).elsewhere
    untried = (f"{each.name}: {elsewhere.untried}",) if elsewhere and elsewhere.untried else ()
    each.notices = (*loss_notices(*about, each.tokens, features), *untried)


def _settings(
    manifest: Manifest, lengths: Sequence[int], tokens: int, repeats: int, threads: int | None
) -> Settings:
    """Check what was asked for. Raises UsageError."""
    room = manifest.context_length - tokens
    if tokens < 1 or room < 1:
        raise UsageError(
            f"{tokens} tokens cannot be decoded in a context of {manifest.context_length}",
            "give fewer with --tokens",
        )
    asked = sorted(set(lengths)) or [length for length in LENGTHS if length <= room] or [room]
    if asked[0] < 1 or asked[-1] > room:
        raise UsageError(
            f"a prompt of {asked[-1] if asked[-1] > room else asked[0]} tokens does not fit: "
            f"{tokens} more are decoded, and the context is {manifest.context_length}",
            f"--lengths may be 1 to {room}",
        )
    if repeats < LEAST_REPEATS:
        raise UsageError(
            f"{repeats} repeats have no median", f"--repeats is at least {LEAST_REPEATS}"
        )
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads compute nothing", "--threads is at least 1")
    return Settings(tuple(asked), tokens, repeats, threads or available_cores())


def _measurable(
    manifest: Manifest, asked: Sequence[str]
) -> tuple[list[BundledArtifact], list[str]]:
    """The artifacts whose own runtime runs here, and sentences about the others.

    Raises BundleError for an artifact that the bundle has not, RefusedError if none is left.
    """
    wanted = [manifest.artifact(name) for name in asked] or manifest.artifacts
    chosen, left_out = [], []
    for artifact in wanted:
        declared = declaration_of(artifact.name)
        try:
            require_packages([artifact.name])
        except MissingPackageError as error:
            left_out.append(f"{artifact.name}: {error.message} ({error.hint})")
            continue
        if declared.timed in {mode.name for mode in artifact.modes}:
            chosen.append(artifact)
        else:
            left_out.append(f"{artifact.name}: {declared.untimed}")
    if not chosen:
        raise RefusedError(
            f"nothing of this bundle can be measured here: {'; '.join(left_out)}",
            "slmkit plan forecasts speeds on phones",
        )
    return chosen, left_out


def _candidate(
    folder: Path,
    manifest: Manifest,
    artifact: BundledArtifact,
    settings: Settings,
    place: Place | None = None,
) -> Candidate:
    """An artifact of the bundle, with the golden prompts of text that judge its tokens."""
    verify_loaded(folder, manifest, artifact)
    golden = load_golden(folder / artifact.golden).judged(random_ids=False)
    mode = mode_as_it_ships(artifact)
    payload = {
        "artifact": artifact_to_json(artifact),
        "path": str(folder / artifact.folder),
        "mode": mode,
        "chunk": manifest.recipe.prefill_chunk,
        "ids": np.resize(
            np.concatenate(golden.sequences), max(settings.lengths, default=0)
        ).tolist(),
        **_common(settings),
    }
    files = (file for file in manifest.files if file.path.startswith(f"{artifact.folder}/"))
    size = sum(file.size for file in files)
    away = None if place is None else remote(folder, artifact, place)
    return Candidate(artifact.name, payload, size, artifact, golden, remote=away)


def _peer(path: Path, ids: Sequence[int], manifest: Manifest, settings: Settings) -> Candidate:
    """A peer's model, given the bundle's ids: the same text if it is the same model."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    payload = {"path": str(path), "context": manifest.context_length, "ids": ids}
    size = sum(each.stat().st_size for each in files)
    name = path.name if path.is_file() else f"{path.resolve().parent.name}/{path.name}"
    return Candidate(name, payload | _common(settings), size)


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "lengths": settings.lengths,
        "decode": settings.decode,
        "threads": settings.threads,
    }
