"""ExecuTorch's BenchmarkMetric: what its benchmark apps write to benchmark_results.json.

Keys as in extension/benchmark/android/benchmark of ExecuTorch: each metric with its model and its
device, but for availMem, which a report has not. A run whose tokens are wrong has load_status 1 and
no speeds: 0 is success there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from slmkit.devices.report import DeviceReport, Run

RIGHT, WRONG = 0, 1


def exported(report: DeviceReport) -> str:
    """Load time, time to the first token, both speeds and memory of every run."""
    wrong = report.wrong
    metrics = [
        {
            "benchmarkModel": _model(report, run),
            "metric": name,
            "actualValue": value,
            "targetValue": 0.0,
            "deviceInfo": _device(report),
        }
        for run in report.runs
        for name, value in _metrics(run, WRONG if run in wrong else RIGHT)
    ]
    return json.dumps(metrics, indent=2) + "\n"


def _metrics(run: Run, status: int) -> Iterator[tuple[str, float]]:
    yield "load_status", float(status)
    yield "llm_model_load_time(ms)", run.load_s.median * 1000
    if status == WRONG:
        return
    longest = run.longest
    answer = longest.first_token_ms.median + longest.decoded / longest.decode.median * 1000
    yield "generate_time(ms)", answer
    yield "token_per_sec", longest.decode.median
    for speed in run.warm:
        yield f"prefill_token_per_sec(prompt={speed.prompt})", speed.prefill.median
        yield f"time_to_first_token(ms)(prompt={speed.prompt})", speed.first_token_ms.median
    if run.memory_peak is not None:
        yield "peak_memory(MB)", run.memory_peak / 1e6


def _model(report: DeviceReport, run: Run) -> dict[str, str]:
    if run.peer:
        return {"name": run.name, "backend": run.runtime, "quantization": ""}
    return {"name": report.model, "backend": run.name, "quantization": report.recipe}


def _device(report: DeviceReport) -> dict[str, Any]:
    device = report.device
    return {
        "device": device.soc or device.model,
        "arch": device.abi,
        "os": device.os,
        "totalMem": device.memory or 0,
    }
