"""Plan large models from their config.json; check plans of 2-layer models against written files.

python tests/benchmarks/plans.py FOLDER CONFIG... [--target android,ios] [--artifacts ort,...]
    [--context 512] [--layers 2]

FOLDER is for temporary files and empty afterwards. For each config.json: the plan of the whole
model; and, for a random checkpoint of 2 layers with its widths, vocabulary and experts, each
planned file beside the written one. Limit: the bytes that a file may hold beside its weights
(``BESIDE`` in ``tests/fixtures/planned_files.py``); mlc's sizes must be equal.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fixtures")]

from random_checkpoint import completed, make  # noqa: E402

from planned_files import compared, good, model_of  # noqa: E402
from slmkit.models.config import read_config  # noqa: E402
from slmkit.planning.plan import Request  # noqa: E402
from slmkit.workflows.estimate import estimate  # noqa: E402

SOC = "sm8650"
LIMIT = 10**11  # bytes of memory: no plan is refused for its size


def truncate(values: dict[str, Any], layers: int) -> dict[str, Any]:
    """Changes to a config.json that leave ``layers`` layers, in lists of an entry per layer too."""
    whole = values["num_hidden_layers"]
    lists = {
        key: value[:layers]
        for key, value in values.items()
        if isinstance(value, list) and len(value) == whole and key.startswith("layer")
    }
    return {"num_hidden_layers": layers, **lists}


def planned(config: Path, target: str, options: argparse.Namespace) -> dict[str, Any]:
    """The plan of the whole model; files of the same content are added up."""
    request = Request(config, target, "int4", context=options.context)
    plan = estimate(request)
    artifacts = {}
    for each in plan.artifacts:
        files: dict[str, list[int]] = {}
        for file in each.files:
            files.setdefault(file.about, []).append(file.size)
        artifacts[each.artifact] = {
            "files": {about: [len(sizes), sum(sizes)] for about, sizes in files.items()},
            "memory": {**asdict(each.memory), "total": each.memory.total},
            "refused": each.refused,
        }
    return {"parameters": plan.parameters, "artifacts": artifacts}


def check_layers(config: Path, target: str, options: argparse.Namespace) -> dict[str, Any]:
    """Planned and written bytes of each file of a model of a few layers, by artifact."""
    folder = options.folder / "layers"
    values = read_config(config).values
    make(
        completed(config, folder / "config", **truncate(dict(values), options.layers)),
        folder / "model",
    )
    files: dict[str, Any] = {}
    request = Request(
        folder / "model",
        target,
        "int4",
        folder / "out",
        context=options.context,
        memory_limit=LIMIT,
        options={"hexagon": {"soc": (SOC,)}} if target == "android" else {},
        cache=folder / "cache",
    )
    for each in estimate(request).artifacts:
        if each.refused or each.artifact not in options.artifacts:
            continue
        model = model_of(request)
        for file in compared(request, each):
            excess = file.actual - file.planned
            files[f"{each.artifact} {file.name}"] = {
                "planned": file.planned,
                "actual": file.actual,
                "more %": round(100 * excess / file.planned, 2) if file.planned else None,
                "good": good(file, model),
            }
        shutil.rmtree(request.out)
    shutil.rmtree(folder)
    return files


def main() -> None:
    """Print a line of JSON for each model and target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--target", default="android,ios")
    parser.add_argument("--artifacts", default="ort,hexagon,litert,mlc,coreml")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    for config in options.configs:
        for target in options.target.split(","):
            whole = completed(config, options.folder / "whole")
            line = {"model": config.stem, "target": target, **planned(whole, target, options)}
            line["of a few layers"] = check_layers(whole, target, options)
            shutil.rmtree(options.folder / "whole")
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
