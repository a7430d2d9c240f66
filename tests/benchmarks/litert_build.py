"""Measure a build of the litert artifact and its speed in LiteRT-LM, beside ort on the same codes.

python tests/benchmarks/litert_build.py CHECKPOINT FOLDER [--recipe int4] [--context 512]
    [--peer PYTHON]

PYTHON is of an environment with litert-torch, tensorflow-cpu and litert-lm.

Limits: 30 seconds and 2 GB for the shape of Qwen2.5-0.5B. litert-torch 0.10 was measured on this
kind of machine at 93.8 seconds and 11.3 GB, 97 to 124 tokens per second.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from process_cost import build_command, build_parser, measure, measure_stages

LIMIT_SECONDS, LIMIT_GB = 30, 2
PEER = {"seconds": 93.8, "largest_process_gb": 11.3, "decode tokens per second": "97 to 124"}
PROMPT, DECODE = 128, 64  # tokens
LITERT_LM = """
import json, sys, litert_lm
from litert_lm import interfaces
path, threads, prompt, decode = sys.argv[1], *map(int, sys.argv[2:])
found = litert_lm.Benchmark(
    path, backend=litert_lm.Backend.CPU(thread_count=threads), cache_dir=":nocache",
    prefill_tokens=prompt, decode_tokens=decode,
).run()
print(json.dumps({
    "time to first token s": found.time_to_first_token_in_second,
    "prefill tokens per second": found.last_prefill_tokens_per_second,
    "decode tokens per second": found.last_decode_tokens_per_second,
}))
"""
EXPORT = """
import sys
from litert_torch.generative.export_hf.export import export
model, out, context = sys.argv[1:]
export(
    model=model, output_dir=out, prefill_lengths=[128], cache_length=int(context),
    quantization_recipe="dynamic_wi4b32_afp32", bundle_litert_lm=True,
)
"""
ORT = """
import json, sys, time, onnxruntime_genai as genai
folder, threads, prompt, decode = sys.argv[1], *map(int, sys.argv[2:])
config = genai.Config(folder)
config.overlay(json.dumps({"model": {"decoder": {"session_options": {
    "intra_op_num_threads": threads}}}}))
model = genai.Model(config)
params = genai.GeneratorParams(model)
params.set_search_options(max_length=prompt + decode + 1, min_length=prompt + decode + 1)
generator = genai.Generator(model, params)
begun = time.monotonic()
generator.append_tokens([7] * prompt)
generator.generate_next_token()
first = time.monotonic() - begun
begun = time.monotonic()
for _ in range(decode):
    generator.generate_next_token()
print(json.dumps({
    "time to first token s": first, "prefill tokens per second": prompt / first,
    "decode tokens per second": decode / (time.monotonic() - begun),
}))
"""


def speed(script: str, path: Path, threads: int) -> dict[str, float]:
    """Run one of the scripts above in a new process; returns its figures."""
    command = [sys.executable, "-c", script, str(path), str(threads), str(PROMPT), str(DECODE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {key: round(value, 3) for key, value in json.loads(done.stdout.splitlines()[-1]).items()}


def measure_build(options: Namespace, artifact: str) -> dict[str, Any]:
    """Build one artifact without a cache: seconds by stage, memory, file sizes, its folder."""
    folder = options.folder / artifact
    shutil.rmtree(folder, ignore_errors=True)
    cost, seconds = measure_stages(build_command(options, "android", artifact, folder))
    (bundle,) = folder.iterdir()
    files = {
        path.name: round(path.stat().st_size / 1e6, 1)
        for path in (bundle / artifact).iterdir()
        if path.stat().st_size > 1e6
    }
    emission = round(seconds["quantize"] + seconds[f"emit {artifact}"], 1)
    return {
        "quantize and emit seconds": emission,
        "stages": seconds,
        "with the whole proof": cost,
        "files mb": files,
        "bundle": str(bundle / artifact),
    }


def measure_export(options: Namespace) -> dict[str, Any]:
    """Export the same checkpoint with litert-torch, 4 bits in groups of 32."""
    folder = options.folder / "litert-torch"
    shutil.rmtree(folder, ignore_errors=True)
    command = [options.peer, "-c", EXPORT, str(options.checkpoint), str(folder), options.context]
    cost = measure(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (bundle,) = folder.rglob("*.litertlm")
    figures = {key: round(value, 2) for key, value in cost.items()}
    figures["mb"] = round(bundle.stat().st_size / 1e6, 1)
    return {**figures, **{f"{at} threads": speed(LITERT_LM, bundle, at) for at in (1, 2)}}


def main() -> None:
    """Build both artifacts and run each in its own runtime; print JSON."""
    parser = build_parser(__doc__)
    parser.add_argument("--peer")
    options = parser.parse_args()
    result: dict[str, Any] = {"limit seconds": LIMIT_SECONDS, "limit gb": LIMIT_GB}
    for artifact, script, file in (("litert", LITERT_LM, "model.litertlm"), ("ort", ORT, "")):
        result[artifact] = measure_build(options, artifact)
        path = Path(result[artifact].pop("bundle")) / file
        for threads in (1, 2):
            result[artifact][f"{threads} threads"] = speed(script, path, threads)
    result["litert-torch, as measured before"] = PEER
    if options.peer:
        result["litert-torch, here"] = measure_export(options)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
