"""Every tiny model through every artifact: lowering error in dB, megabytes, seconds to emit.

python tests/benchmarks/families.py [--rows llama,gemma,...] [--artifacts ort,litert,...]

Limit: 100 dB, in the mode whose error is "lowering". For mlc, the seconds include compilation for
the GPUs of android and execution of their kernels.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "fixtures")]

from slmkit.backend.interface import Artifact, Job  # noqa: E402
from slmkit.backend.registry import find_backend  # noqa: E402
from slmkit.checkpoint.folder import open_checkpoint  # noqa: E402
from slmkit.interpreters.reference import logits  # noqa: E402
from slmkit.planning.codes import codes_of  # noqa: E402
from slmkit.planning.emit import describe_job  # noqa: E402
from slmkit.planning.memory import matrix_schemes  # noqa: E402
from slmkit.recipe.recipe import load_recipe  # noqa: E402
from slmkit.snr import snr_db  # noqa: E402
from slmkit.system.cache import Cache  # noqa: E402
from slmkit.system.progress import Silent  # noqa: E402
from tiny_models import TINY, tiny_config, write_checkpoint  # noqa: E402

ARTIFACTS = ("ort", "hexagon", "coreml", "litert", "mlc")
CONTEXT, CHUNK, TOKENS = 64, 16, 50
STEPS = [16, 32, *range(33, TOKENS)]  # two prefill chunks, then single tokens


def job_for(row: str, artifact: str, scratch: Path) -> Job | list[str]:
    """The job of a build with the recipe int4, or the backend's reasons to refuse it."""
    checkpoint = open_checkpoint(write_checkpoint(scratch / row, tiny_config(row)))
    recipe = load_recipe("int4").with_options("hexagon", {"soc": ["sm8650"]})
    schemes = matrix_schemes(checkpoint.model, recipe, artifact)
    codes = codes_of(checkpoint, schemes, Cache(scratch / "cache"), Silent())
    texts = np.random.default_rng(3).integers(0, checkpoint.spec.vocabulary, (64, CONTEXT))
    described = describe_job(
        artifact, checkpoint, codes, recipe, CONTEXT, texts.tolist(), "android"
    )
    job = replace(described, prefill_chunk=CHUNK).open()
    return find_backend(artifact).problems(job.model, schemes, job.options) or job


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """Emit an artifact and measure it."""
    folder.mkdir()
    begun = time.monotonic()
    artifact = find_backend(job.artifact).emit(job, folder, lambda done, total: None)
    seconds = time.monotonic() - begun
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "snr_db": round(lowering_snr(job, folder, artifact), 1),
        "mb": round(size / 1e6, 2),
        "seconds": round(seconds, 1),
    }


def lowering_snr(job: Job, folder: Path, artifact: Artifact) -> float:
    """Lowering error in dB: the artifact's logits against the reference on the same codes."""
    mode = next(each.name for each in artifact.modes if "lowering" in each.bounds.values())
    runner = find_backend(artifact.name).open_runner(folder, artifact, mode)
    ids = np.random.default_rng(5).integers(0, job.spec.vocabulary, TOKENS)
    got = np.concatenate([runner.feed(chunk) for chunk in np.split(ids, STEPS)])
    return snr_db(logits(job.codes, job.spec, [ids])[0], got)


def main() -> None:
    """Print a line of JSON for each pair of model and artifact."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(TINY))
    parser.add_argument("--artifacts", default=",".join(ARTIFACTS))
    options = parser.parse_args()
    for row in options.rows.split(","):
        for artifact in options.artifacts.split(","):
            with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
                job = job_for(row, artifact, Path(scratch))
                if isinstance(job, Job):
                    result = measure(job, Path(scratch) / "out")
                else:
                    result = {"refused": job}
            line = json.dumps({"family": row, "artifact": artifact, **result})
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
