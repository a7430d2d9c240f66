"""Weights in the types that LiteRT stores, back in float32."""

from __future__ import annotations

from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slmkit_litert.lowering.weight_binding import StoredWeight
from slmkit_litert.weights import TYPES, dequantize, dequantized, pack_signed


@given(
    bits=st.sampled_from([4, 8]),
    rows=st.integers(1, 9),
    columns=st.integers(1, 7),
    block=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_rows_are_dequantized_some_at_a_time_as_all_at_once(bits, rows, columns, block, seed):
    random = np.random.default_rng(seed)
    signed = random.integers(-8, 8, (rows, columns)).astype(np.int8)
    data = pack_signed(signed) if bits == 4 else signed.view(np.uint8).reshape(-1)
    scales = random.uniform(0.5, 2, rows).astype(np.float32)
    weight = StoredWeight(TYPES[bits], (rows, columns), data, scales)
    with mock.patch("slmkit_litert.weights.BLOCK", block):
        got = np.concatenate(list(dequantized(weight)))
    np.testing.assert_array_equal(got, dequantize(weight))
    np.testing.assert_array_equal(got, signed * scales[:, None])
