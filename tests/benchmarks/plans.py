"""Plans of large models from their config.json, checked against files of 2 layers of them.

python tests/benchmarks/plans.py FOLDER CONFIG... [--target android,ios] [--artifacts ort,...]
    [--context 512] [--layers 2]

FOLDER is for what is made in between, and empty again afterwards. For each config.json: the plan of
the whole model, and for a random checkpoint of its widths, vocabulary and all its experts, but of 2
layers, each planned file beside the written one. The limit beside it: what a file may hold beside
its weights (``BESIDE`` in ``tests/fixtures/planned_files.py``); mlc's must be equal.
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
LIMIT = 10**11  # bytes of memory: the plan is asked for whatever the model needs


def cut(values: dict[str, Any], layers: int) -> dict[str, Any]:
    """Changes to a config.json that leave so many layers: lists of one entry a layer too."""
    whole = values["num_hidden_layers"]
    lists = {
        key: value[:layers]
        for key, value in values.items()
        if isinstance(value, list) and len(value) == whole and key.startswith("layer")
    }
    return {"num_hidden_layers": layers, **lists}


def planned(config: Path, target: str, asked: argparse.Namespace) -> dict[str, Any]:
    """What `slmkit plan` says of the whole model, pieces of one thing added up."""
    request = Request(config, target, "int4", context=asked.context)
    found = estimate(request)
    artifacts = {}
    for each in found.artifacts:
        files: dict[str, list[int]] = {}
        for file in each.files:
            files.setdefault(file.about, []).append(file.size)
        artifacts[each.artifact] = {
            "files": {about: [len(sizes), sum(sizes)] for about, sizes in files.items()},
            "memory": {**asdict(each.memory), "total": each.memory.total},
            "refused": each.refused,
        }
    return {"parameters": found.parameters, "artifacts": artifacts}


def checked(config: Path, target: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Planned and written bytes of each file of a few layers, by artifact."""
    folder = asked.folder / "layers"
    values = read_config(config).values
    make(completed(config, folder / "config", **cut(dict(values), asked.layers)), folder / "model")
    found: dict[str, Any] = {}
    request = Request(
        folder / "model",
        target,
        "int4",
        folder / "out",
        context=asked.context,
        memory_limit=LIMIT,
        options={"hexagon": {"soc": (SOC,)}} if target == "android" else {},
        cache=folder / "cache",
    )
    for each in estimate(request).artifacts:
        if each.refused or each.artifact not in asked.artifacts:
            continue
        model = model_of(request)
        for file in compared(request, each):
            excess = file.actual - file.planned
            found[f"{each.artifact} {file.name}"] = {
                "planned": file.planned,
                "actual": file.actual,
                "more %": round(100 * excess / file.planned, 2) if file.planned else None,
                "good": good(file, model),
            }
        shutil.rmtree(request.out)
    shutil.rmtree(folder)
    return found


def main() -> None:
    """A line of JSON for each model and target."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--target", default="android,ios")
    parser.add_argument("--artifacts", default="ort,hexagon,litert,mlc,coreml")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    asked = parser.parse_args()
    for config in asked.configs:
        for target in asked.target.split(","):
            whole = completed(config, asked.folder / "whole")
            line = {"model": config.stem, "target": target, **planned(whole, target, asked)}
            line["of a few layers"] = checked(whole, target, asked)
            shutil.rmtree(asked.folder / "whole")
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
