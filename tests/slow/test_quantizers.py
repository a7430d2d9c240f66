"""Checkpoints that the quantizers' own packages pack are read as the packages read them.

They need another environment (torch, and versions of their own), whose Python SLMKIT_QUANTIZERS
names: pip install torch safetensors transformers compressed-tensors "mlx[cpu]" bitsandbytes
gptqmodel, and without their dependencies auto-gptq==0.7.1 and autoawq==0.2.9.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.checkpoint.safetensors import SafetensorsFile

SCRIPT = Path(__file__).resolve().parents[1] / "fixtures" / "quantizer_packages.py"
PYTHON = os.environ.get("SLMKIT_QUANTIZERS")
pytestmark = [
    pytest.mark.own_environment,
    pytest.mark.skipif(not PYTHON, reason="SLMKIT_QUANTIZERS names no Python with the quantizers"),
]
FREE, HALF = "int4 g32", "int4 g32 float16 scales"
ZEROS = "int4 g32 asymmetric float16 scales"
BYTES = "int8 per-channel float16 scales"
CASES = {  # the format's words, the codes' scheme, whether they are not quite the stored numbers
    "gptq": ("GPTQ int4 g32", HALF, False),
    "gptq-zeros": ("GPTQ int4 g32", ZEROS, False),
    "gptqmodel": ("GPTQ int4 g32", HALF, False),
    "gptqmodel-zeros": ("GPTQ int4 g32", ZEROS, False),
    "gptqmodel-v2": ("GPTQ int4 g32", ZEROS, False),
    "gptqmodel-act-order": ("GPTQ int4 g32 act-order", "", False),
    "awq": ("AWQ int4 g32", ZEROS, False),
    "ct-bf16": ("compressed-tensors int4 g32", FREE, False),
    "ct-zeros": ("compressed-tensors int4 g32", ZEROS, False),
    "mlx": ("MLX affine int4 g32", ZEROS, True),
    "nf4": ("bitsandbytes nf4 blocks of 64", "", False),
    "fp4": ("bitsandbytes fp4 blocks of 64", "", False),
    "int8": ("bitsandbytes int8 per channel", BYTES, True),
}


def rounded(weight: np.ndarray, dtype: str) -> np.ndarray:
    """float32 rounded to the type that the package computes in, as float32."""
    if dtype == "F16":
        return weight.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = weight.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return weight


@pytest.mark.parametrize("method", CASES)
def test_weights_are_those_of_the_package(tmp_path, method):
    label, scheme, inexact = CASES[method]
    folder = shutil.copytree(SAMPLE_MODEL, tmp_path / "home")
    truth = tmp_path / "expected.safetensors"
    done = subprocess.run(
        [str(PYTHON), str(SCRIPT), method, str(folder), str(truth)],
        capture_output=True,
        text=True,
        check=False,
        env={name: each for name, each in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected, shards = SafetensorsFile(truth), open_checkpoint(folder).shards
    assert set(shards.formats.values()) == {label}
    assert {str(each) for each in shards.imports.values()} == ({scheme} if scheme else set())
    assert bool(shards.rounded) == inexact
    for tensor, entry in expected.entries.items():
        own = shards.rows(tensor, slice(None))
        theirs = expected.floats(tensor)
        np.testing.assert_array_equal(rounded(own, entry.dtype), theirs, err_msg=tensor)
        if scheme and not inexact:
            codes = shards.codes(tensor.removesuffix(".weight"), slice(None))
            np.testing.assert_array_equal(codes.dequantize(), own)
