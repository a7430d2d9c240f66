"""A bundle of a packed checkpoint holds its codes, and its report tells what became of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

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
