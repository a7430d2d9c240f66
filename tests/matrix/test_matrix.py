"""Every family through every artifact: none is refused, all keep the floors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import coreml_artifacts
import litert_artifacts
from artifacts import FLOAT32_FLOOR, reference_of, snr_db, token_snr_db
from hexagon_artifacts import check_ladder, hexagon_job
from litert_artifacts import litert_job
from mlc_artifacts import machine_of, mlc_job, run_machine
from ort_artifacts import run_both
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.interpreters.recorder import Model, summarize
from slmkit.planning.memory import matrix_schemes
from slmkit.recipe.recipe import load_recipe
from slmkit_mlc.lowering.program import PARITY_FUNCTIONS
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY

LAYOUTS = {"android": "K-major", "ios": "N-major"}


def through_ort(folder: Path, scratch: Path, row: str) -> None:
    expected, got = run_both(folder, scratch, "int4-g32", "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR


def through_hexagon(folder: Path, scratch: Path, row: str) -> None:
    check_ladder(hexagon_job(folder, scratch), scratch / "hexagon")


def through_coreml(folder: Path, scratch: Path, row: str) -> None:
    """Both layouts; narrow heads have widths that no group divides, which Core ML cannot take."""
    scheme = "int4-per-channel" if "narrow" in row else "int4-g32"
    for layout in ("ane", "gpu"):
        more = {"kv_cache": "io"} if model_of(folder).states else {}
        job = coreml_artifacts.coreml_job(folder, scratch, scheme, layout=layout, **more)
        coreml_artifacts.check_floors(job, scratch / layout)


def through_litert(folder: Path, scratch: Path, row: str) -> None:
    litert_artifacts.check_floors(litert_job(folder, scratch), scratch / "litert")


def through_mlc(folder: Path, scratch: Path, row: str) -> None:
    """Both layouts in turn; windows, chunks within them and across pages are among them."""
    target = list(LAYOUTS)[list(TINY).index(row) % 2]
    job = mlc_job(folder, scratch, target=target)
    machine, definition = machine_of(job, scratch, functions=PARITY_FUNCTIONS)
    assert definition.layout == LAYOUTS[target]
    assert token_snr_db(reference_of(job), run_machine(machine, job)).min() > FLOAT32_FLOOR


THROUGH: dict[str, Callable[[Path, Path, str], None]] = {
    "ort": through_ort,
    "hexagon": through_hexagon,
    "coreml": through_coreml,
    "litert": through_litert,
    "mlc": through_mlc,
}


@pytest.mark.parametrize("artifact", THROUGH)
@pytest.mark.parametrize("row", some(TINY, SAYS_MOST, why=ROWS))
def test_a_family_keeps_an_artifact_s_floors(tiny, tmp_path, row, artifact):
    folder = tiny(row)
    assert problems(folder, artifact) == []
    THROUGH[artifact](folder, tmp_path, row)


def model_of(folder: Path) -> Model:
    """What the architecture of a checkpoint says."""
    return summarize(open_checkpoint(folder).spec)


def problems(folder: Path, artifact: str) -> list[str]:
    """What the backend says before anything is emitted, of the recipe int4."""
    recipe, model = load_recipe("int4"), model_of(folder)
    schemes = matrix_schemes(model, recipe, artifact)
    return find_backend(artifact).problems(model, schemes, recipe.options(artifact))
