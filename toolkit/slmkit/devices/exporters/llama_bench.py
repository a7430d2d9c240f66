"""The JSON of llama-bench: an object for each test, prompts as n_prompt, decoding as n_gen.

Keys and units as ``llama-bench -o json`` writes them (tools/llama-bench/README.md of llama.cpp).
Those that only llama.cpp has are left out. Runs whose tokens are wrong are left out too: the form
has no place to mark them.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from slmkit.devices.report import DeviceReport, Run, Samples


def exported(report: DeviceReport) -> str:
    """Every right run's warm answers: a test of the prompt, and one of decoding after it."""
    wrong = report.wrong
    tests = [test for run in report.runs if run not in wrong for test in _tests(report, run)]
    return json.dumps(tests, indent=2) + "\n"


def _tests(report: DeviceReport, run: Run) -> Iterator[dict[str, Any]]:
    for speed in run.warm:
        yield {**_about(report, run), **_test(report.time, speed.prompt, 0, 0, speed.prefill)}
        yield {
            **_about(report, run),
            **_test(report.time, 0, speed.decoded, speed.prompt, speed.decode),
        }


def _about(report: DeviceReport, run: Run) -> dict[str, Any]:
    return {
        "build_commit": f"slmkit {report.slmkit}",
        "build_number": 0,
        "cpu_info": report.device.model,
        "gpu_info": "",
        "backends": run.runtime,
        "model_filename": run.name,
        "model_type": f"{report.model} {report.recipe}" if not run.peer else run.name,
        "model_size": run.size,
        "model_n_params": report.parameters,
        "n_threads": run.threads,
        "n_gpu_layers": 0,
    }


def _test(time: str, prompt: int, decoded: int, depth: int, samples: Samples) -> dict[str, Any]:
    count = prompt or decoded
    times = [count / rate * 1e9 for rate in samples.runs]
    return {
        "n_prompt": prompt,
        "n_gen": decoded,
        "n_depth": depth,
        "test_time": time,
        "avg_ns": round(statistics.mean(times)),
        "stddev_ns": round(_deviation(times)),
        "avg_ts": statistics.mean(samples.runs),
        "stddev_ts": _deviation(samples.runs),
        "samples_ns": [round(each) for each in times],
        "samples_ts": list(samples.runs),
    }


def _deviation(values: Sequence[float]) -> float:
    """Of a sample, as llama-bench computes it."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
