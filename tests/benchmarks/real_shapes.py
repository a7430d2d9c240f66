"""Whole builds of real shapes: seconds and GB by stage, sizes beside the plan, parity.

python tests/benchmarks/real_shapes.py FOLDER CONFIG... [--target android,ios] [--artifacts ort,...]
    [--context 512] [--soc sm8650] [--most 2100]

FOLDER is for what is made in between, and empty again afterwards. For each config.json a checkpoint
of random weights is made and built with all artifacts of each target that its family has, in the
order given. The limit beside it: 8 GB, of all processes together. Pages of a file that several
processes map are counted in each: the sum is an upper bound.
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

from random_checkpoint import completed, make  # noqa: E402
from watching import stages_of  # noqa: E402

from slmkit.bundle.manifest import read_manifest  # noqa: E402
from slmkit.planning.plan import Request  # noqa: E402
from slmkit.recipe.recipe import SHIPPED  # noqa: E402
from slmkit.workflows.estimate import Estimate, estimate  # noqa: E402

LIMIT_GB = 8
# dB. Random weights have no structure that codes could keep: what quantizing costs says nothing.
# Lowering keeps its bound.
LOOSE = {"shipped": 5, "quantization": -10}


def loosened(folder: Path) -> Path:
    """The recipe int4 with other bounds of what its codes cost."""
    recipe = yaml.safe_load((SHIPPED / "int4.yaml").read_text(encoding="utf-8"))
    for key, bound in LOOSE.items():
        recipe["parity"][key] = {"snr_db": bound}
    path = folder / "int4.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def built(planned: Estimate, artifacts: list[str], request: Request, most: float) -> dict[str, Any]:
    """One build, without a cache."""
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
        request.recipe,
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
        status, cost, stages, said = stages_of(command, most, out)
    lines = json.loads(report.read_text()).get("comparisons", []) if report.stat().st_size else []
    found: dict[str, Any] = {
        "artifacts": artifacts,
        "good": status == 0 and cost["tree_gb"] < LIMIT_GB,
        **cost,
        "stages": stages,
        "snr db": {_title(each): round(each["metrics"]["snr_db"], 1) for each in lines},
    }
    if status:
        return {**found, "status": status, "said": said[-8:]}
    (bundle,) = request.out.iterdir()
    files = {file.path: file.size for file in read_manifest(bundle).files}
    found["mb"] = {name: _megabytes(files, f"{name}/") for name in artifacts}
    found["files: planned, actual, more %"] = _beside_plan(planned, artifacts, files)
    return found


def _title(line: dict[str, Any]) -> str:
    return f"{line['artifact']} {line['mode']} {line['error']}/{line['against']}"


def _megabytes(files: dict[str, int], folder: str) -> float:
    return round(sum(size for path, size in files.items() if path.startswith(folder)) / 1e6, 1)


def _beside_plan(
    planned: Estimate, artifacts: list[str], files: dict[str, int]
) -> dict[str, tuple[int, int, float]]:
    """Each planned file as it is in the bundle; a package is a folder."""
    found = {}
    for each in planned.artifacts:
        for file in each.files if each.artifact in artifacts else ():
            path = f"{each.artifact}/{file.name}"
            inside = (size for at, size in files.items() if at == path or at.startswith(f"{path}/"))
            actual = sum(inside)
            found[path] = (file.size, actual, round(100 * (actual / file.size - 1), 2))
    return found


def main() -> None:
    """A line of JSON for each model and target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--target", default="android,ios")
    parser.add_argument("--artifacts", default="ort,hexagon,litert,mlc,coreml")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--soc", help="chips [default: the recipe's]")
    parser.add_argument("--most", type=float, default=2100, help="seconds of a build")
    asked = parser.parse_args()
    for config in asked.configs:
        folder = asked.folder / config.stem
        make(completed(config, folder / "config"), folder / "model")
        recipe = loosened(folder)
        for target in asked.target.split(","):
            socs = tuple(asked.soc.split(",")) if asked.soc and target == "android" else ()
            request = Request(
                folder / "model",
                target,
                str(recipe),
                folder / target,
                asked.context,
                options={"hexagon": {"soc": socs}} if socs else {},
            )
            planned = estimate(request)
            refused = {each.artifact: each.refused for each in planned.artifacts if each.refused}
            chosen = [each.artifact for each in planned.artifacts if not each.refused]
            artifacts = [name for name in chosen if name in asked.artifacts.split(",")]
            line = {"model": config.stem, "target": target, "parameters": planned.parameters}
            if artifacts:
                line |= built(planned, artifacts, request, asked.most)
            sys.stdout.write(json.dumps({**line, "refused": refused}) + "\n")
            sys.stdout.flush()
            shutil.rmtree(request.out, ignore_errors=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
