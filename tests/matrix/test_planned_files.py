"""What a plan says of files, from config.json alone, beside the files that are then written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.contrib import tvmjs

from planned_files import check, compared, model_of, planned_alone
from slmkit.planning.plan import Request
from slmkit.recipe.recipe import SHIPPED
from slmkit_mlc.shards import shard_sizes
from tiny_models import tiny_config, write_checkpoint

WIDE = {"hidden_size": 512, "intermediate_size": 1536, "vocab_size": 4096}
SCANNING = {**WIDE, "intermediate_size": 1024, "num_heads": 64}  # of width 16
FAMILIES = {
    "qwen2": (WIDE, ("ort", "hexagon", "litert", "mlc", "coreml")),
    "llama": (WIDE, ("litert", "mlc")),  # the head is not the embedding
    "qwen2-moe": ({**WIDE, "moe_intermediate_size": 256}, ("ort", "mlc", "coreml")),
    "mamba": (SCANNING, ("litert",)),
    "mamba2": (SCANNING, ("ort", "coreml")),
}
CASES = [(family, name, "int4") for family, (_, names) in FAMILIES.items() for name in names]
CASES += [("qwen2", "coreml", "int4-coreml-gpu"), ("llama", "ort", "float16")]
EVERY_UNIT = 2_700_000  # bytes: a layer or the head of WIDE, and no two of them
FIRST_UNIT = 4_200_000  # a layer and the table


def request_for(tmp_path: Path, family: str, artifact: str, recipe: str, **changes: int) -> Request:
    """A build of one artifact, for the shapes of a family."""
    model = write_checkpoint(tmp_path / "model", tiny_config(family, **changes))
    return Request(
        model,
        "ios" if artifact == "coreml" else "android",
        recipe,
        tmp_path / "out",
        context=64,
        artifacts=(artifact,),
        options={"hexagon": {"soc": ["sm8650"]}} if artifact == "hexagon" else {},
    )


@pytest.mark.parametrize(("family", "artifact", "recipe"), CASES)
def test_files_are_as_large_as_planned(tmp_path, family, artifact, recipe):
    request = request_for(tmp_path, family, artifact, recipe, **FAMILIES[family][0])
    (planned,) = planned_alone(request).artifacts
    check(compared(request, planned), model_of(request))


@pytest.mark.parametrize(
    ("artifact", "options", "names"),
    [
        (
            "coreml",
            {"chunk_limit": FIRST_UNIT},
            {f"model_{number}.mlpackage" for number in (1, 2, 3)},
        ),
        (
            "coreml",
            {"chunk_limit": EVERY_UNIT, "self_contained": False},
            {f"model_{number}.mlpackage" for number in (1, 2, 3)},
        ),
        (
            "hexagon",
            {"part_limit": EVERY_UNIT},
            {f"sm8650/prefill.{part}_qnn.bin" for part in ("layers.0-0", "layers.1-1", "head")},
        ),
    ],
)
def test_a_large_model_is_cut_as_planned(tmp_path, artifact, options, names):
    recipe = yaml.safe_load((SHIPPED / "int4.yaml").read_text(encoding="utf-8"))
    recipe["artifacts"].setdefault(artifact, {}).update(options)
    (tmp_path / "cut.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    request = request_for(tmp_path, "qwen2", artifact, str(tmp_path / "cut.yaml"), **WIDE)
    (planned,) = planned_alone(request).artifacts
    check(compared(request, planned), model_of(request))
    assert names <= {file.name for file in planned.files}


@given(st.lists(st.integers(1, 3 << 19), min_size=1, max_size=12))
@settings(max_examples=40)
def test_shards_are_tvm_s_own(sizes):
    """Parameters around the limit of a megabyte, through the function that writes them."""
    arrays = {f"p{at}": np.zeros(size, np.uint8) for at, size in enumerate(sizes)}
    with tempfile.TemporaryDirectory() as folder:
        tvmjs.dump_tensor_cache(arrays, folder, "raw", shard_cap_mb=1, show_progress=False)
        shards = len(list(Path(folder).glob("*.bin")))
        written = [(Path(folder) / f"params_shard_{at}.bin").stat().st_size for at in range(shards)]
    assert shard_sizes(sizes, limit=1 << 20) == written
