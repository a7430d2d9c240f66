"""Write the ``hexagon`` artifact: calibrate, emit every graph, compile for every chip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slmkit.backend.interface import Artifact, Job, Progress
from slmkit.backend.partition import Part
from slmkit_onnx.data import DataFile
from slmkit_onnx.hexagon import io_description
from slmkit_onnx.hexagon.calibrate.calibration import Calibration, observe
from slmkit_onnx.hexagon.contract import CONTRACTS
from slmkit_onnx.hexagon.genai import write_genai
from slmkit_onnx.hexagon.lowering.emit import (
    DATA,
    EMBED,
    Emitted,
    Form,
    embedding_graph,
    emit_form,
    save,
)
from slmkit_onnx.hexagon.lowering.encodings import asymmetric
from slmkit_onnx.hexagon.partition import first_and_last
from slmkit_onnx.hexagon.plan import Plan, make_plan
from slmkit_onnx.hexagon.qnn.compile import compile_part, graph_file
from slmkit_onnx.hexagon.qnn.socs import SOCS

FLOAT, CHECK = "float.", "check."  # prefixes of files that serve parity only
RUN = 256  # tokens of a calibration run: longer ones gained nothing; of scans alone, a chunk
CALIBRATE, EMIT = 0.3, 0.4  # shares of the progress after these steps


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """The whole artifact; ``folder`` is empty before."""
    plan, data = make_plan(job), DataFile(DATA)
    asked = plan.options
    run = (
        min(job.context_length, RUN)
        if job.model.attention_layers
        else plan.windows["prefill"].tokens
    )
    recorded = observe(
        job,
        run,
        asked.tokens,
        asked.range != "minmax",
        data,
        folder,
        lambda done, total: progress(int(1000 * CALIBRATE * done / max(total, 1)), 1000),
    )
    calibration = recorded.choose(asked.range, asked.margin)
    calibration.write(folder)
    emitted = _write_graphs(job, plan, calibration, data, folder)
    if plan.options.runtime == "genai":
        write_genai(job, plan.windows, emitted["prefill"], data, folder)
    data.write(folder / DATA, lambda done, total: None)
    progress(int(1000 * EMIT), 1000)
    if not job.debug:  # taps are of the float twin: nothing to compile
        _compile(plan, folder, progress)
    return io_description.artifact(job, version, plan, calibration, emitted, folder)


def _write_graphs(
    job: Job, plan: Plan, calibration: Calibration, data: DataFile, folder: Path
) -> dict[str, Emitted]:
    """Float twins, QDQ graphs, checks of a large model, the embedding; returns the QDQ graphs."""
    emitted = {}
    for kind, window in plan.windows.items():
        own = CONTRACTS[plan.options.runtime]
        twin = Form(window, _whole(job), hidden=calibration.hidden, contract=own)
        _save(emit_form(job, twin, data), FLOAT + kind, folder)
        form = Form(window, plan.parts, calibration.ranges, calibration.hidden, own, plan.embedded)
        emitted[kind] = emit_form(job, form, data)
        _save(emitted[kind], kind, folder)
        if not plan.emulated:
            checks = replace(form, parts=first_and_last(job.spec.layers), embedded=False)
            _save(emit_form(job, checks, data), CHECK + kind, folder)
    grid = asymmetric(calibration.ranges["input_embeds"])
    save(embedding_graph(job, emitted["prefill"].table, data, grid), folder / EMBED)
    return emitted


def _save(emitted: Emitted, kind: str, folder: Path) -> None:
    for part, graph in zip(emitted.graphs.parts, emitted.graphs.graphs, strict=True):
        save(graph, folder / graph_file(kind, part.name))


def _whole(job: Job) -> list[Part]:
    return [Part("model", 0, job.spec.layers)]


def _compile(plan: Plan, folder: Path, progress: Progress) -> None:
    """One binary per chip and part, shared by prefill and decode."""
    steps = [(SOCS[name], part) for name in plan.options.soc for part in plan.parts]
    for done, (soc, part) in enumerate(steps, 1):
        compile_part(folder, folder / soc.name, part.name, soc, True, plan.options.timeout)
        share = EMIT + (1 - EMIT) * done / len(steps)
        progress(int(1000 * share), 1000)
