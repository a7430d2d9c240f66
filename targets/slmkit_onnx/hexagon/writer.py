"""Write the ``hexagon`` artifact: calibrate, emit every graph, compile for every chip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from slmkit.backend.interface import Artifact, Job, Progress
from slmkit_onnx.data import DataFile
from slmkit_onnx.hexagon import io_description
from slmkit_onnx.hexagon.calibrate.calibration import Calibration, observe
from slmkit_onnx.hexagon.contract import CONTRACTS
from slmkit_onnx.hexagon.genai import write_genai
from slmkit_onnx.hexagon.lowering.emit import (
    DATA,
    EMBED,
    EMBED_DATA,
    Form,
    GraphSet,
    embedding_graph,
    emit_graphs,
    save_graph,
)
from slmkit_onnx.hexagon.lowering.encodings import asymmetric
from slmkit_onnx.hexagon.plan import Plan, make_plan
from slmkit_onnx.hexagon.qnn.compile import compile_part, graph_file
from slmkit_onnx.hexagon.qnn.socs import SOCS

FLOAT, CHECK = "float.", "check."  # prefixes of files for parity only
RUN_LENGTH = 256  # tokens of a calibration run: longer runs gained nothing
CALIBRATED, EMITTED = 0.3, 0.4  # fractions of the progress after these steps


def write(job: Job, folder: Path, version: str, progress: Progress) -> Artifact:
    """Write the artifact into the empty ``folder``: calibrate, emit, compile."""
    plan, data, table = make_plan(job), DataFile(DATA), DataFile(EMBED_DATA)
    chosen = plan.options
    recorded = observe(
        job,
        _run_length(job, plan),
        chosen.tokens,
        chosen.range != "minmax",
        data,
        table,
        folder,
        lambda done, total: progress(int(1000 * CALIBRATED * done / max(total, 1)), 1000),
    )
    calibration = recorded.choose(chosen.range, chosen.margin)
    calibration.write(folder)
    emitted = _write_graphs(job, plan, calibration, data, folder)
    encoding = asymmetric(calibration.ranges["input_embeds"])
    save_graph(
        embedding_graph(job, emitted["prefill"].embedding_name, table, encoding), folder / EMBED
    )
    if plan.options.runtime == "genai":
        write_genai(job, plan.windows, emitted["prefill"], table, folder)
    data.write(folder / DATA, lambda done, total: None)
    table.write(folder / EMBED_DATA, lambda done, total: None)
    progress(int(1000 * EMITTED), 1000)
    if not job.debug:  # taps are outputs of the float graphs: nothing to compile
        _compile(plan, folder, progress)
    return io_description.artifact(job, version, plan, calibration, emitted, folder)


def _run_length(job: Job, plan: Plan) -> int:
    """Tokens of a calibration run; of models without attention, a prefill chunk."""
    if job.model.attention_layers:
        return min(job.context_length, RUN_LENGTH)
    return plan.windows["prefill"].tokens


def _write_graphs(
    job: Job, plan: Plan, calibration: Calibration, data: DataFile, folder: Path
) -> dict[str, GraphSet]:
    """Write float graphs, QDQ graphs, and check graphs of a large model.

    Return the QDQ graphs by kind (prefill, decode).
    """
    emitted = {}
    for kind, window in plan.windows.items():
        contract, mask_value = CONTRACTS[plan.options.runtime], calibration.mask_value
        float_form = Form(window, plan.parts, mask_value=mask_value, contract=contract)
        _save(emit_graphs(job, float_form, data), FLOAT + kind, folder)
        form = Form(
            window, plan.parts, calibration.ranges, mask_value, contract, plan.table_in_graph
        )
        emitted[kind] = emit_graphs(job, form, data)
        _save(emitted[kind], kind, folder)
        if not plan.emulated:
            checks = replace(form, parts=plan.checks, table_in_graph=False)
            _save(emit_graphs(job, checks, data), CHECK + kind, folder)
    return emitted


def _save(emitted: GraphSet, kind: str, folder: Path) -> None:
    """Write the model file of each part."""
    for part, graph in zip(emitted.graphs.parts, emitted.graphs.graphs, strict=True):
        save_graph(graph, folder / graph_file(kind, part.name))


def _compile(plan: Plan, folder: Path, progress: Progress) -> None:
    """Compile one binary per chip and part, shared by prefill and decode."""
    steps = [(SOCS[name], part) for name in plan.options.soc for part in plan.parts]
    for done, (soc, part) in enumerate(steps, 1):
        compile_part(folder, folder / soc.name, part.name, soc, True, plan.options.timeout)
        fraction = EMITTED + (1 - EMITTED) * done / len(steps)
        progress(int(1000 * fraction), 1000)
