"""Every scheme on ONNX Runtime, against the reference on codes; families: see test_matrix."""

from __future__ import annotations

import pytest

from artifacts import FLOAT32_FLOOR, rule, snr_db
from ort_artifacts import TAKEN, run_both

INT8_ACTIVATIONS = 20  # dB: level 4 rounds activations to 8 bits; tiny models average little


@pytest.mark.parametrize("scheme", TAKEN)
@pytest.mark.parametrize("architecture", ["llama-narrow-heads", "qwen2"])
def test_every_scheme_is_exact_at_level_0(tiny, tmp_path, architecture, scheme):
    expected, got = run_both(tiny(architecture), tmp_path, scheme, "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR


@pytest.mark.parametrize("scheme", ["int4-g32", "int4-uneven-g32", "int8-g32", "int8-per-channel"])
def test_the_shipped_level_4_is_near(tiny, tmp_path, scheme):
    expected, got = run_both(tiny("llama-tied"), tmp_path, scheme, "shipped")
    assert snr_db(expected, got) > INT8_ACTIVATIONS


def test_weights_of_one_block_may_have_different_schemes(tiny, tmp_path):
    mixed = [
        rule("int4-g32"),
        rule("int8-g32", "*.v_proj", "*.up_proj"),
        rule("float16", layers=[0]),
    ]
    expected, got = run_both(tiny("qwen2"), tmp_path, mixed, "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR


@pytest.mark.parametrize("head_width", [8, 16], ids=["plain", "fused"])
def test_attention_without_positions_is_exact(tiny, tmp_path, head_width):
    folder = tiny("granite-hybrid", head_dim=head_width)
    expected, got = run_both(folder, tmp_path, "int4-g32", "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR


@pytest.mark.parametrize("width", [40, 72, 100, 172])
def test_widths_that_no_group_divides_are_exact(tiny, tmp_path, width):
    folder = tiny("llama-tied", hidden_size=width, head_dim=16, intermediate_size=width + 4)
    expected, got = run_both(folder, tmp_path, "int8-per-channel", "exact")
    assert snr_db(expected, got) > FLOAT32_FLOOR
