"""What a model's parts hand to each other."""

from __future__ import annotations

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from slmkit.backend.static_runner import Calls


@given(
    st.lists(
        hnp.arrays(
            st.sampled_from([np.float32, np.uint16, np.int16, np.uint8, np.float16]),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        ),
        max_size=4,
    )
)
def test_what_a_call_hands_on_reaches_the_same_call_of_later_parts(arrays):
    calls = Calls()
    for call in range(2):  # of the first part
        assert calls.handed() == {}
        calls.hand({f"{call}.{at}": each for at, each in enumerate(arrays)})
    for _ in range(2):  # later parts
        calls.begin()
        for call in range(2):
            got = calls.handed()
            assert list(got) == [f"{call}.{at}" for at in range(len(arrays))]
            for ours, theirs in zip(got.values(), arrays, strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)
