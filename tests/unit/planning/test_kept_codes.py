"""The price of kept codes is measured: the weights of a codes file against the checkpoint's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import packed_files as packing
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.planning.codes import codes_of
from slmkit.planning.kept_codes import kept_codes
from slmkit.planning.plan import make_plan
from slmkit.planning.prepare import prepare
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from tiny_models import ort_request, tiny_config, write_checkpoint

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("kept") / "llama"
    write_checkpoint(made, {**tiny_config("llama"), "intermediate_size": 128})
    packing.pack_folder(made, packing.gptq, GPTQ)
    return made


def price(folder, artifact, tmp_path):
    plan = make_plan(replace(ort_request(folder, "int4", tmp_path), artifacts=(artifact,)))
    checkpoint, cache = open_checkpoint(folder), Cache(tmp_path / "cache")
    runs = (np.arange(1, 30),)
    prepared = prepare(checkpoint, plan.choice.recipe, runs, cache, Silent())
    schemes = {
        name: scheme.without_text for name, scheme in plan.choice.encoding(artifact).schemes.items()
    }
    codes = codes_of(checkpoint, schemes, cache, Silent(), prepared)
    shards = checkpoint.shards
    (row,) = plan.imports
    found = kept_codes(checkpoint, codes, shards.imports, shards.rounded, prepared)
    return row.artifacts[artifact], found, checkpoint, codes


def test_exact_codes_have_no_price(folder, tmp_path):
    fate, found, checkpoint, codes = price(folder, "ort", tmp_path)
    assert fate == "exact" and found is None
    for name in checkpoint.shards.imports:
        own = checkpoint.shards.rows(f"{name}.weight", slice(None))
        kept = codes.rows(f"{name}.weight", slice(None)) / codes.stream_scale
        assert np.array_equal(kept, own) or np.array_equal(kept * codes.stream_scale, own)


def test_kept_codes_have_one_and_the_codes_are_the_same(folder, tmp_path):
    fate, found, checkpoint, codes = price(folder, "hexagon", tmp_path)
    assert fate == "kept" and found is not None
    assert found.matrices == len(checkpoint.shards.imports)
    assert 0.002 < found.error <= found.worst_error < 0.05
    said = found.sentence("hexagon")
    assert f"{found.error:.2%}" in said and "--requantize" in said
    for name in checkpoint.shards.imports:
        own = checkpoint.shards.codes(name, slice(None))
        np.testing.assert_array_equal(codes.codes(name).codes, own.codes)
