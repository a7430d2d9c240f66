"""The report of an app's self-test: read, judged beside the bundle's golden prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter, ValidationError

from slmkit import __version__
from slmkit.bundle.manifest import BundledArtifact, Manifest
from slmkit.bundle.verify import verify_loaded
from slmkit.devices.elsewhere import mode_as_it_ships
from slmkit.devices.judged import judged_tokens
from slmkit.devices.places.app import App, Waiting, report_of
from slmkit.devices.report import Case, Device, DeviceReport, Position, Run, Samples, Speed, ranked
from slmkit.errors import BackendError, RefusedError
from slmkit.parity.golden import Golden, Outputs
from slmkit.parity.golden_file import load_golden

BEST = 8  # ids of a row
LENIENT = ConfigDict(extra="ignore", frozen=True)
EMULATORS = ("ranchu", "goldfish")  # hardware of Android's emulator
ANEW = "slmkit app new --bundle with this bundle, and install that app"
COMPARED = (
    "compared on the 8 best logits of each decoded position that the app reports; not compared: "
    "other logits and positions of the prompt. The best logits are "
    "large, so that dB read higher than over all, and the bounds are easier to keep"
)


class Row(BaseModel):
    """One decoded position."""

    model_config = LENIENT

    ids: tuple[int, ...] = Field(min_length=1, max_length=BEST)
    logits: tuple[FiniteFloat, ...]
    norm: FiniteFloat


class AppCase(BaseModel):
    """One golden prompt."""

    model_config = LENIENT

    name: str
    ttft_ms: FiniteFloat = Field(ge=0)
    prefill_tps: FiniteFloat = Field(ge=0)
    decode_tps: FiniteFloat = Field(ge=0)
    rows: tuple[Row, ...]


class AppReport(BaseModel):
    """One artifact, as an app writes it."""

    model_config = LENIENT

    format: Literal["slmkit-device-report/1"] = "slmkit-device-report/1"
    model: str
    artifact: str
    device: dict[str, str]
    executed: bool = False
    errors: tuple[str, ...] = ()
    runtime: dict[str, str] | None = None
    files: dict[str, str] = {}  # SHA-256 of what ran, by its path in the app's export
    cases: tuple[AppCase, ...] = ()
    load_s: FiniteFloat | None = None
    peak_mb: int | None = None


def parse_report(text: bytes, where: str) -> tuple[AppReport, ...]:
    """The reports of an app: Android's are in a list, iOS writes one. Raises BackendError."""
    try:
        found = json.loads(text)
        if isinstance(found, dict):
            found = found.get("reports", [found])
        reports = TypeAdapter(tuple[AppReport, ...]).validate_python(found)
        torn = any(len(row.ids) != len(row.logits) for row in _rows(reports))
        if not reports or torn or any(r.executed and r.load_s is None for r in reports):
            raise ValueError(text)
    except (ValueError, RecursionError, ValidationError):
        raise BackendError(f"{where}: the self-test's report is damaged", "run it again") from None
    return reports


def prove_by_app(
    folder: Path,
    manifest: Manifest,
    app: App,
    asked: Sequence[str] = (),
    waiting: Waiting | None = None,
) -> DeviceReport:
    """Run the self-test of an app that has this bundle inside, and judge what it reports.

    Raises BundleError, BackendError for a device that does not answer, RefusedError for a report of
    another bundle or without an artifact that ran.
    """
    artifacts = [manifest.artifact(name) for name in asked] or manifest.artifacts
    reports = parse_report(report_of(app, waiting), app.name)
    there = {each.artifact: each for each in reports}
    runs, left_out = [], []
    for artifact in artifacts:
        found = there.get(artifact.name)
        if found is None:
            left_out.append(f"{artifact.name}: the app on {app.name} has it not")
        elif not found.executed:
            left_out.append(f"{artifact.name}: {'; '.join(found.errors) or 'no reason is given'}")
        else:
            verify_loaded(folder, manifest, artifact)
            runs.append(_run(folder, manifest, artifact, found, app.name))
    if not runs:
        raise RefusedError(f"nothing ran on {app.name}: {'; '.join(left_out)}", "see its screen")
    return DeviceReport(
        slmkit=__version__,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        device=_device(app.name, reports[0].device),
        model=manifest.model.name,
        parameters=manifest.model.parameters,
        recipe=manifest.recipe.name,
        runs=ranked(runs),
        not_executed=tuple(left_out),
    )


def _run(
    folder: Path, manifest: Manifest, artifact: BundledArtifact, found: AppReport, where: str
) -> Run:
    golden = load_golden(folder / artifact.golden).judged(random_ids=False)
    steps = [span.stop - span.start for span in golden.decoded()]
    theirs = [(each.name, len(each.rows)) for each in found.cases]
    same = theirs == list(zip(golden.names, steps, strict=True))
    if found.model != manifest.model.name or not same:
        raise RefusedError(f"{where} reports {found.model}/{artifact.name} of another bundle", ANEW)
    _same_files(manifest, artifact, found, where)
    mode = mode_as_it_ships(artifact)
    runtime = " ".join((found.runtime or {}).values()) or "not told"
    expected, got, unknown = on_reported(golden, [r for c in found.cases for r in c.rows])
    way = next(each for each in artifact.modes if each.name == mode)
    tokens = judged_tokens(artifact, way, runtime, got, expected, manifest.recipe.parity)
    kept = f"; {unknown} of its logits stand in no column that the bundle keeps" if unknown else ""
    files = (file for file in manifest.files if file.path.startswith(f"{artifact.folder}/"))
    return Run(
        name=artifact.name,
        mode=mode,
        runtime=runtime,
        threads=0,
        size=sum(file.size for file in files),
        load_s=Samples.of([found.load_s or 0.0]),
        cold=_speed(found.cases[0], golden.prompt_lengths[0]),
        warm=(),
        memory_peak=None if found.peak_mb is None else found.peak_mb * 1_000_000,
        memory_before=None,
        tokens=tokens,
        cases=tuple(_case(each) for each in found.cases),
        rank=None,
        notices=(f"{artifact.name}: {COMPARED}{kept}",),
    )


def _same_files(
    manifest: Manifest, artifact: BundledArtifact, found: AppReport, where: str
) -> None:
    """Raise RefusedError if other files than the bundle's ran, or the app does not tell which."""
    if not found.files:
        raise RefusedError(
            f"{where} does not tell the hashes of the files of {artifact.name}: its app is of an "
            "older slmkit",
            ANEW,
        )
    known = {each.path: each.sha256 for each in manifest.files}
    for path, digest in found.files.items():
        if digest not in (known.get(f"{artifact.folder}/{path}"), known.get(path)):
            raise RefusedError(
                f"{where} ran another {path} of {artifact.name} than this bundle's", ANEW
            )


def on_reported(golden: Golden, rows: Sequence[Row]) -> tuple[Golden, Outputs, int]:
    """The golden and the app's outputs, both on the ids that the app reports at each decoded
    position, and how many of those the golden does not keep. Column j is a row's j-th id."""
    outputs, spans = golden.outputs, golden.decoded()
    at = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    ours = np.empty((len(rows), BEST), np.float32)
    theirs = np.empty((len(rows), BEST), np.float32)
    best, got_best, unknown = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64), 0
    for number, (row, position) in enumerate(zip(rows, at, strict=True)):
        values = outputs.values[position]
        ours[number] = theirs[number] = values.min()  # equal: not compared
        places = dict(zip(outputs.columns.tolist(), values.tolist(), strict=True))
        for column, (each, logit) in enumerate(zip(row.ids, row.logits, strict=True)):
            if each in places:
                ours[number, column], theirs[number, column] = places[each], logit
            unknown += each not in places
        reference = int(outputs.best[position])
        if reference in row.ids:
            best[number] = row.ids.index(reference)
        else:
            got_best[number] = BEST  # in no column: neither the same nor a tie
    columns, norms = np.arange(BEST), np.array([row.norm for row in rows])
    expected = Outputs(columns, ours, outputs.norm[at], best)
    steps = [span.stop - span.start for span in spans]
    return (
        replace(
            golden,
            sequences=tuple(np.zeros(each, np.int64) for each in steps),
            prompt_lengths=(1,) * len(steps),
            outputs=expected,
            crossed=None,
        ),
        Outputs(columns, theirs, norms, got_best),
        unknown,
    )


def _rows(reports: Sequence[AppReport]) -> list[Row]:
    return [row for each in reports for case in each.cases for row in case.rows]


def _case(found: AppCase) -> Case:
    rows = (Position(ids=row.ids, logits=row.logits, norm=row.norm) for row in found.rows)
    return Case(name=found.name, positions=tuple(rows))


def _speed(found: AppCase, prompt: int) -> Speed:
    return Speed(
        prompt=prompt,
        decoded=len(found.rows) - 1,
        prefill=Samples.of([found.prefill_tps]),
        decode=Samples.of([found.decode_tps]),
        first_token_ms=Samples.of([found.ttft_ms]),
    )


def _device(where: str, facts: dict[str, str]) -> Device:
    simulated = "Apple's simulator" if where.startswith("simctl") else ""
    if facts.get("machine") in EMULATORS:
        simulated = "Android's emulator"
    return Device(
        where=where,
        emulated=simulated,
        model=facts.get("model", "unknown"),
        soc=facts.get("machine"),
        os=facts.get("os", "unknown"),
        abi=facts.get("abi", "unknown"),
        cpu_features=tuple(facts.get("hwcap", "").split()),
        cores=0,  # the apps do not tell
    )
