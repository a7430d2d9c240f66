"""A bundle of a packed checkpoint holds its codes, and its report tells what became of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import packed_files as packing
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from tiers import WHOLE
from tiny_models import ort_request, tiny_config, write_checkpoint

CASES: dict[str, Any] = {
    "GPTQ": (packing.gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32}, "exact in ort"),
    "MLX": (packing.mlx, {"bits": 4, "group_size": 32}, "kept in ort"),
}


@pytest.mark.full(WHOLE)
@pytest.mark.parametrize("case", CASES)
def test_a_report_tells_what_became_of_the_codes_and_at_what_price(tmp_path, case):
    pack, settings, said = CASES[case]
    folder = tmp_path / "llama"
    write_checkpoint(folder, {**tiny_config("llama"), "intermediate_size": 128})
    packing.pack_folder(folder, pack, settings)
    request = replace(ort_request(folder, "int4", tmp_path / "dist"), context=64)
    found = build(request, Silent()).manifest
    assert any(said in notice for notice in found.notices)
    prices = [notice for notice in found.notices if "keep the checkpoint's codes" in notice]
    assert len(prices) == (case == "MLX")
    again = build(replace(request, requantize=True, force=True), Silent()).manifest
    assert any("requantized in ort" in notice for notice in again.notices)
    assert not any("keep the checkpoint's codes" in notice for notice in again.notices)


@pytest.mark.full(WHOLE)
def test_codes_of_compressed_tensors_are_exact_in_litert_and_kept_in_hexagon(tmp_path):
    folder = tmp_path / "llama"
    write_checkpoint(folder, {**tiny_config("llama"), "intermediate_size": 128})
    packing.pack_folder(folder, packing.compressed, packing.ct_settings())
    tensors = load_file(folder / "model.safetensors")
    for name in [each for each in tensors if each.endswith(".weight_scale")]:
        tensors[name] = tensors[name].astype(np.float32).astype(ml_dtypes.bfloat16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    request = replace(ort_request(folder, "int4", tmp_path / "dist"), context=64)
    one = {"hexagon": {"soc": ["sm8650"]}}
    request = replace(request, artifacts=("hexagon", "litert"), options=one)
    notices = build(request, Silent()).manifest.notices
    assert any("exact in litert" in each and "kept in hexagon" in each for each in notices)
    assert any(each.startswith("hexagon: ") and "rounded scales" in each for each in notices)
