"""Measure a bundle: speed, load time and memory of each artifact, and if its tokens are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from slmkit import __version__
from slmkit.backend.artifact import artifact_to_json
from slmkit.backend.registry import declaration_of, require_packages
from slmkit.bundle.manifest import BundledArtifact, Manifest, read_manifest
from slmkit.bundle.verify import verify_loaded
from slmkit.devices.bench_job import timing_from_json
from slmkit.devices.judged import cases_of, judged_tokens
from slmkit.devices.local import available_cores, load_average, this_device
from slmkit.devices.peers import peer_kind
from slmkit.devices.report import Case, DeviceReport, Run, Samples, Speed, Tokens, ranked
from slmkit.errors import MissingPackageError, RefusedError, UsageError
from slmkit.inference.speed import DECODED, Timing
from slmkit.parity.golden import Golden
from slmkit.parity.golden_file import load_golden
from slmkit.system import subprocess_worker
from slmkit.system.progress import Progress, Silent
from slmkit.system.scratch import scratch

PathLike = str | Path
LENGTHS = (32, 128, 512)  # tokens of prompts: those that fit into the context
REPEATS = 5  # processes of each model, in turns
LEAST_REPEATS = 3  # below, a median and a spread say nothing
LOCAL = "local"


@dataclass(frozen=True)
class Settings:
    """How a benchmark is done."""

    lengths: tuple[int, ...]  # tokens of the prompts
    decode: int  # tokens that are decoded after each
    repeats: int
    threads: int


@dataclass
class _Candidate:
    """A model that takes its turns: an artifact of the bundle, or a peer's."""

    name: str
    payload: dict[str, Any]
    size: int
    artifact: BundledArtifact | None = None
    golden: Golden | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    tokens: Tokens | None = None
    cases: tuple[Case, ...] = ()


def benchmark(
    bundle: PathLike,
    where: str = LOCAL,
    *,
    artifacts: Sequence[str] = (),
    lengths: Sequence[int] = (),
    tokens: int = DECODED,
    repeats: int = REPEATS,
    threads: int | None = None,
    against: Sequence[PathLike] = (),
    progress: Progress | None = None,
) -> DeviceReport:
    """Measure the artifacts of a bundle whose own runtime runs there, each in processes of its own.

    Models take turns, ``repeats`` times, so that a busy machine slows all of them. ``lengths``: of
    prompts in tokens, after each of which ``tokens`` are decoded. ``threads``: all cores by
    default. ``against``: peers' models, measured beside them, and never judged.

    A run whose tokens break a bound of the bundle's recipe is marked and never ranked. Raises
    BundleError, UsageError, MissingPackageError for a peer without its runtime, RefusedError if no
    artifact of the bundle can be measured there.
    """
    progress = progress or Silent()
    if where != LOCAL:
        raise UsageError(f"there is no place {where!r}", "benchmarks run on: local")
    folder = Path(bundle)
    manifest = read_manifest(folder)
    settings = _settings(manifest, lengths, tokens, repeats, threads)
    for path in against:
        peer_kind(Path(path))
    chosen, left_out = _measurable(manifest, artifacts)
    candidates = [_candidate(folder, manifest, each, settings) for each in chosen]
    ids = candidates[0].payload["ids"]
    candidates += [_peer(Path(path), ids, manifest, settings) for path in against]
    busy = load_average()
    _take_turns(candidates, manifest, settings, progress)
    return DeviceReport(
        slmkit=__version__,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        device=this_device(),
        model=manifest.model.name,
        parameters=manifest.model.parameters,
        recipe=manifest.recipe.name,
        runs=ranked([_run_of(each, settings) for each in candidates]),
        not_executed=tuple(left_out),
        busy=busy,
    )


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
    folder: Path, manifest: Manifest, artifact: BundledArtifact, settings: Settings
) -> _Candidate:
    """An artifact of the bundle, with the golden prompts of text that judge its tokens."""
    verify_loaded(folder, manifest, artifact)
    golden = load_golden(folder / artifact.golden).judged(random_ids=False)
    mode = declaration_of(artifact.name).timed
    payload = {
        "artifact": artifact_to_json(artifact),
        "path": str(folder / artifact.folder),
        "mode": mode,
        "chunk": manifest.recipe.prefill_chunk,
        "ids": np.resize(np.concatenate(golden.sequences), max(settings.lengths)).tolist(),
        **_common(settings),
    }
    files = (file for file in manifest.files if file.path.startswith(f"{artifact.folder}/"))
    size = sum(file.size for file in files)
    return _Candidate(artifact.name, payload, size, artifact, golden)


def _peer(path: Path, ids: Sequence[int], manifest: Manifest, settings: Settings) -> _Candidate:
    """A peer's model, given the bundle's ids: the same text if it is the same model."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    payload = {"path": str(path), "context": manifest.context_length, "ids": ids}
    size = sum(each.stat().st_size for each in files)
    name = path.name if path.is_file() else f"{path.resolve().parent.name}/{path.name}"
    return _Candidate(name, payload | _common(settings), size)


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "lengths": settings.lengths,
        "decode": settings.decode,
        "threads": settings.threads,
    }


def _take_turns(
    candidates: Sequence[_Candidate], manifest: Manifest, settings: Settings, progress: Progress
) -> None:
    """Run every candidate once in each round; in the first, its tokens are judged too."""
    steps = len(settings.lengths) + 1
    for number in range(settings.repeats):
        label = f"round {number + 1} of {settings.repeats}"
        progress.stage(label, steps * len(candidates))
        for each in candidates:
            with scratch() as out:
                payload = {**each.payload, "out": str(out)}
                if number == 0 and each.golden is not None:
                    payload["golden"] = _sequences(each.golden)
                result = subprocess_worker.call(
                    "slmkit.devices.bench_job:run_job",
                    payload,
                    lambda done, _: progress.advance(done),
                    f"measures {each.name}",
                )
                each.results.append(result)
                if "golden" in payload:
                    _judge(each, manifest, result["runtime"], out)


def _sequences(golden: Golden) -> list[tuple[list[int], int]]:
    pairs = zip(golden.sequences, golden.prompt_lengths, strict=True)
    return [(ids.tolist(), length) for ids, length in pairs]


def _judge(each: _Candidate, manifest: Manifest, runtime: str, out: Path) -> None:
    """Compare the tokens with the reference's."""
    artifact, golden = each.artifact, each.golden
    if artifact is None or golden is None:
        return
    mode = next(mode for mode in artifact.modes if mode.name == each.payload["mode"])
    logits = [np.load(out / f"{at}.npy", mmap_mode="r") for at in range(len(golden.sequences))]
    bounds = manifest.recipe.parity
    each.tokens = judged_tokens(artifact, mode, runtime, logits, golden, bounds)
    each.cases = cases_of(golden, logits)


def _run_of(each: _Candidate, settings: Settings) -> Run:
    """All rounds of one candidate."""
    results = each.results
    by_length = zip(*(result["warm"] for result in results), strict=True)
    known = [result["memory"] for result in results if result["memory"] is not None]
    return Run(
        name=each.name,
        mode=each.payload.get("mode", ""),
        peer=each.artifact is None,
        runtime=results[0]["runtime"],
        threads=settings.threads,
        size=each.size,
        load_s=Samples.of([result["load_s"] for result in results]),
        cold=_speed([result["cold"] for result in results]),
        warm=tuple(_speed(timings) for timings in by_length),
        memory_peak=max(known, default=None),
        memory_before=results[0]["memory_before"],
        tokens=each.tokens,
        cases=each.cases,
        rank=None,
    )


def _speed(results: Sequence[Mapping[str, Any]]) -> Speed:
    timings: list[Timing] = [timing_from_json(dict(each)) for each in results]
    return Speed(
        prompt=timings[0].prompt,
        decoded=timings[0].decoded,
        prefill=Samples.of([each.prefill for each in timings]),
        decode=Samples.of([each.decode for each in timings]),
        first_token_ms=Samples.of([each.prefill_s * 1000 for each in timings]),
    )
