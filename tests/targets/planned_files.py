"""Writes an artifact's files with weights, and puts what was planned beside what is there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slmkit.backend.interface import Artifact, Job
from slmkit.backend.job import job_of
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.folder import CONFIG, open_checkpoint, read_facts
from slmkit.interpreters.recorder import Model, listen
from slmkit.planning.emit import payload_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.plan import Request, codes_of, with_socs
from slmkit.recipe.recipe import load_recipe
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit.workflows.estimate import Expected, Forecast, forecast
from slmkit_mlc.lowering.definition import definition_for
from slmkit_mlc.shards import PARAMS
from slmkit_mlc.writer import write_params

TEXT, SEED = 64, 3  # tokens of the text that hexagon listens to
CACHE = "KV cache and states"
PAGE = 4096  # bytes: where tensors of ONNX's data file start
# Bytes beside the weights, for each word that the architecture says, each weight, each token id,
# each byte of weights: a graph grows with the words. Measured on shapes of 2 layers.
BESIDE = {
    "_qnn.bin": (16_000, 0, 0, 0.02),  # two compiled graphs; HTP's tiles fill weights up
    ".mlpackage": (8_000, 0, 0, 0),  # a program of two functions
    ".tflite": (4_000, 0, 0, 0),  # the graphs of two signatures
    ".litertlm": (4_000, 0, 20, 0),  # and a tokenizer, packed, with a name for every id
    # Of a weight up to four tensors, each from a page on; zero points of hexagon, once a shape.
    ".data": (0, 4 * PAGE, 0, 0.005),
    ".bin": (0, 0, 0, 0),
}


@dataclass(frozen=True)
class Compared:
    """One file: bytes."""

    name: str
    planned: int
    actual: int


def planned_alone(request: Request) -> Forecast:
    """The plan of a checkpoint's config.json, where no weight is there to be read."""
    alone = request.out / "alone"
    alone.mkdir(parents=True, exist_ok=True)
    config = (request.model / CONFIG).read_text(encoding="utf-8")
    (alone / CONFIG).write_text(config, encoding="utf-8")
    return forecast(replace(request, model=alone))


def compared(request: Request, planned: Expected) -> list[Compared]:
    """The artifact, emitted into ``request.out``; of mlc its parameters, for no library holds any.

    Every file with weights is listed: one that was not planned, with 0 bytes. So is the cache.
    """
    job, folder = _job(request, planned.artifact), request.out / planned.artifact
    folder.mkdir(parents=True)
    cache = []
    if planned.artifact == "mlc":
        write_params(definition_for(job), job, folder / PARAMS)
    else:
        artifact = find_backend(planned.artifact).emit(job, folder, lambda done, total: None)
        if inputs := cache_bytes(artifact):  # else the package keeps its cache
            cache = [Compared(CACHE, planned.memory.kv_cache, inputs)]
    sizes = {file.name: file.size for file in planned.files}
    found = {path.relative_to(folder).as_posix(): path for path in _with_weights(folder)}
    return cache + [
        Compared(name, sizes.get(name, 0), _size(found[name]) if name in found else 0)
        for name in sorted({*sizes, *found})
    ]


def cache_bytes(artifact: Artifact) -> int:
    """What the inputs for keys, values and states take when the context is full; where several of
    Core ML's packages have some, the manifest lists the first one's."""
    context = artifact.facts["context_length"]
    packages = artifact.facts["packages"] if artifact.name == "coreml" else [{"layers": 1}]
    alike = sum(1 for each in packages if each["layers"] == packages[0]["layers"])
    return alike * sum(
        math.prod(1 if each == "batch" else context if each == "past" else each for each in shape)
        * np.dtype(dtype).itemsize
        for name, dtype, shape in ((each.name, each.dtype, each.shape) for each in artifact.inputs)
        if name.startswith(("past", "kv_cache", "state_"))
    )


def model_of(request: Request) -> Model:
    """What the architecture says."""
    return listen(read_facts(request.model / CONFIG)[1])


def _job(request: Request, artifact: str) -> Job:
    checkpoint = open_checkpoint(request.model)
    recipe = with_socs(load_recipe(request.recipe), request.socs)
    context = request.context or recipe.context_length
    checkpoint = checkpoint.at_context(context)
    schemes = matrix_schemes(checkpoint.spec, recipe, artifact)
    cache = Cache(request.cache or request.out / "cache")
    codes = codes_of(checkpoint, schemes, cache, Silent())
    text = np.random.default_rng(SEED).integers(0, checkpoint.spec.vocabulary, (1, TEXT))
    return job_of(
        payload_of(artifact, checkpoint, codes, recipe, context, text.tolist(), request.target)
    )


def _with_weights(folder: Path) -> list[Path]:
    """Packages, and files by their endings."""
    packages = sorted(folder.glob("*.mlpackage"))
    ends = (".data", ".bin", ".tflite", ".litertlm", ".task")
    files = [path for path in folder.rglob("*") if path.suffix in ends and path.is_file()]
    return [*packages, *(path for path in files if not {*path.parents} & {*packages})]


def _size(path: Path) -> int:
    inside = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in inside if each.is_file())


def check(files: list[Compared], model: Model) -> None:
    """Every file was planned, holds its weights, and no more beside them than is known of it; the
    cache is exact."""
    for file in files:
        assert good(file, model), (file, beside(file, model))


def good(file: Compared, model: Model) -> bool:
    """Whether a file holds its weights, and no more beside them than is known of it."""
    return 0 < file.planned <= file.actual <= file.planned + beside(file, model)


def beside(file: Compared, model: Model) -> float:
    """Most bytes that a file holds beside its weights; of the cache, none."""
    if file.name == CACHE:
        return 0
    ending = next(each for each in BESIDE if file.name.endswith(each))
    counts = sum(model.ops.values()), len(model.shapes), model.spec.vocabulary, file.planned
    return sum(each * count for each, count in zip(BESIDE[ending], counts, strict=True))
