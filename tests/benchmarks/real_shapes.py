"""Build models of real shapes: seconds and GB by stage, sizes beside the plan, parity.

python tests/benchmarks/real_shapes.py FOLDER CONFIG... [--target android,ios] [--artifacts ort,...]
    [--context 512] [--soc sm8650] [--timeout 2100]

FOLDER is for temporary files and empty afterwards. For each config.json a checkpoint of random
weights is made and built with all artifacts of each target that its family has, in the given order.
Limit: 8 GB, of all processes together. Pages of a file that several processes map are counted in
each, so the sum is an upper bound.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fixtures")]

from process_cost import run_stages  # noqa: E402
from random_checkpoint import completed, make  # noqa: E402

from slmkit.bundle.manifest import read_manifest  # noqa: E402
from slmkit.planning.plan import Request  # noqa: E402
from slmkit.recipe.recipe import SHIPPED  # noqa: E402
from slmkit.workflows.estimate import Estimate, estimate  # noqa: E402

LIMIT_GB = 8
# dB. The quantization error of random weights says nothing about a trained model: its bounds are
# wide. The bound of lowering is unchanged.
LOOSE_BOUNDS = {"shipped": 0.01, "quantization": 0.01}


def loose_recipe(folder: Path) -> Path:
    """Write the recipe int4 with LOOSE_BOUNDS, its weights rounded: random weights say nothing on
    calibration text."""
    text = (SHIPPED / "int4.yaml").read_text(encoding="utf-8")
    recipe = yaml.safe_load(text.replace("method: gptq", "method: mse"))
    recipe["parity"] = {key: {"snr_db": bound} for key, bound in LOOSE_BOUNDS.items()}
    path = folder / "int4.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def measure_build(
    planned: Estimate, artifacts: list[str], request: Request, timeout: float
) -> dict[str, Any]:
    """Build without a cache; returns cost, stages, SNR and sizes."""
    socs = request.options.get("hexagon", {}).get("soc", ())
    more = ["--soc", ",".join(socs)] if socs and "hexagon" in artifacts else []
    command = [
        sys.executable,
        "-m",
        "slmkit",
        "build",
        "--target",
        request.target,
        "--no-cache",
        "--json",
        "--model",
        str(request.model),
        "--recipe",
        str(request.recipe),
        "--out",
        str(request.out),
        "--context",
        str(request.context),
        "--artifacts",
        ",".join(artifacts),
        *more,
    ]
    report = request.out.with_suffix(".json")
    with report.open("wb") as out:
        status, cost, stages, messages = run_stages(command, timeout, out)
    lines = json.loads(report.read_text()).get("comparisons", []) if report.stat().st_size else []
    result: dict[str, Any] = {
        "artifacts": artifacts,
        "good": status == 0 and cost["tree_gb"] < LIMIT_GB,
        **cost,
        "stages": stages,
        "snr db, median db, kl, top-1": {
            _title(each): _closeness(each["metrics"]) for each in lines
        },
    }
    if status:
        return {**result, "status": status, "messages": messages[-8:]}
    (bundle,) = request.out.iterdir()
    files = {file.path: file.size for file in read_manifest(bundle).files}
    result["mb"] = {name: _megabytes(files, f"{name}/") for name in artifacts}
    result["files: planned, actual, more %"] = _compare_with_plan(planned, artifacts, files)
    return result


def _closeness(metrics: dict[str, Any]) -> list[float | None]:
    """As a build's JSON has them: null where logits are not finite."""
    return [metrics[name] for name in ("snr_db", "median_db", "kl", "top1")]


def _title(line: dict[str, Any]) -> str:
    return f"{line['artifact']} {line['mode']} {line['error']}/{line['against']}"


def _megabytes(files: dict[str, int], folder: str) -> float:
    return round(sum(size for path, size in files.items() if path.startswith(folder)) / 1e6, 1)


def _compare_with_plan(
    planned: Estimate, artifacts: list[str], files: dict[str, int]
) -> dict[str, tuple[int, int, float]]:
    """Planned and actual bytes of each file, and the difference in percent."""
    sizes = {}
    for each in planned.artifacts:
        for file in each.files if each.artifact in artifacts else ():
            path = f"{each.artifact}/{file.name}"
            package = f"{path}/"  # a Core ML package is a folder
            parts = (size for at, size in files.items() if at == path or at.startswith(package))
            actual = sum(parts)
            sizes[path] = (file.size, actual, round(100 * (actual / file.size - 1), 2))
    return sizes


def main() -> None:
    """Print a line of JSON for each model and target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--target", default="android,ios")
    parser.add_argument("--artifacts", default="ort,hexagon,litert,mlc,coreml")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--soc", help="chips [default: the recipe's]")
    parser.add_argument("--timeout", type=float, default=2100, help="seconds of a build")
    options = parser.parse_args()
    for config in options.configs:
        folder = options.folder / config.stem
        make(completed(config, folder / "config"), folder / "model")
        recipe = loose_recipe(folder)
        for target in options.target.split(","):
            socs = tuple(options.soc.split(",")) if options.soc and target == "android" else ()
            request = Request(
                folder / "model",
                target,
                str(recipe),
                folder / target,
                options.context,
                options={"hexagon": {"soc": socs}} if socs else {},
            )
            planned = estimate(request)
            refused = {each.artifact: each.refused for each in planned.artifacts if each.refused}
            chosen = [each.artifact for each in planned.artifacts if not each.refused]
            artifacts = [name for name in chosen if name in options.artifacts.split(",")]
            line = {"model": config.stem, "target": target, "parameters": planned.parameters}
            if artifacts:
                line |= measure_build(planned, artifacts, request, options.timeout)
            sys.stdout.write(json.dumps({**line, "refused": refused}) + "\n")
            sys.stdout.flush()
            shutil.rmtree(request.out, ignore_errors=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
