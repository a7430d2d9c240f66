"""Tiles of a product compute what the product says, for every layout, width and number of rows."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import te, tirx

from artifacts import SCHEMES
from mlc_artifacts import TAKEN
from slmkit.recipe.scheme import Scheme
from slmkit_mlc.kernels import dense, moe
from slmkit_mlc.kernels.cpu_schedules import LANES, MAX_TILE, tile_product
from slmkit_mlc.params import K_MAJOR, N_MAJOR, Matrix
from slmkit_mlc.verify.machine import cpu_target

TOKENS = 3
GRANITE = 49155  # rows of a vocabulary that no vector fills


def matrix_of(rows: int, width: int, layout: str, scheme: str) -> Matrix:
    return Matrix("a", ("a",), rows, width, Scheme.model_validate(SCHEMES[scheme]), layout)


def written(function, *given, matrix: Matrix):
    """A function that reads a matrix, as it is before any schedule."""
    stored = [te.placeholder(each.shape, each.dtype, each.name) for each in matrix.params]
    inputs = [te.placeholder(shape, kind, f"in{at}") for at, (shape, kind) in enumerate(given)]
    made = te.create_prim_func([*inputs, *stored, function(*inputs, stored)])
    return made.with_attr("tirx.noalias", True), [*inputs, *stored, made.params[-1]]


def ran(function, numbers) -> np.ndarray:
    """What its code leaves in its last buffer."""
    tensors = [tvm.runtime.tensor(each) for each in numbers]
    built = tvm.compile(
        tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), cpu_target()
    )
    built["main"](*tensors)
    return tensors[-1].numpy()


def random_numbers(shape, kind: str) -> np.ndarray:
    random = np.random.default_rng(3)
    if kind.startswith("uint"):
        return random.integers(0, np.iinfo(kind).max, shape, kind, endpoint=True)
    return random.normal(size=shape).astype(kind)


def assert_tiles_agree(function, inputs) -> str:
    """The text of the scheduled function, once its numbers are those of the other."""
    numbers = [random_numbers([int(n) for n in each.shape], str(each.dtype)) for each in inputs]
    numbers[-1] = np.zeros_like(numbers[-1])
    changed = tile_product(function)
    expected = ran(function, numbers)
    most = np.abs(expected).max()
    assert most > 0
    np.testing.assert_allclose(ran(changed, numbers), expected, rtol=0, atol=1e-5 * most)
    return str(changed)


@settings(max_examples=12)
@given(
    rows=st.integers(1, 200),
    width=st.integers(1, 5).map(lambda each: 8 * each),
    layout=st.sampled_from([K_MAJOR, N_MAJOR]),
    scheme=st.sampled_from(TAKEN),
)
def test_any_product_in_tiles_gives_the_product(rows, width, layout, scheme):
    matrix = matrix_of(rows, width, layout, scheme)
    given = (((1, TOKENS, width), "float32"), ((rows,), "float16"))
    product = lambda x, bias, stored: dense.matmul(matrix, "float32", x, stored, bias)  # noqa: E731
    function, inputs = written(product, *given, matrix=matrix)
    assert_tiles_agree(function, inputs)


@pytest.mark.parametrize("layout", [K_MAJOR, N_MAJOR])
def test_experts_rows_are_read_in_tiles(layout):
    wide, width, count = 32, 32, 3
    matrix = matrix_of(count * 2 * wide, width, layout, "int4-g32")
    named = ((1, TOKENS, 2), "int32")

    def grown(x, stored):
        chosen = te.compute(named[0], lambda b, t, at: (t + at) % count, name="chosen")
        return moe.gate_up_product(matrix, wide, x, chosen, stored)

    function, inputs = written(grown, ((1, TOKENS, width), "float32"), matrix=matrix)
    assert "T.parallel" in assert_tiles_agree(function, inputs)


@pytest.mark.parametrize("layout", [K_MAJOR, N_MAJOR])
@pytest.mark.parametrize("rows", [MAX_TILE * 3, GRANITE])
def test_real_shapes_run_in_parallel_and_in_vectors(rows, layout):
    matrix = matrix_of(rows, 4 * LANES, layout, "int4-g32")
    tokens = tirx.Var("tokens", "int64")
    product = lambda x, stored: dense.matmul(matrix, "float32", x, stored)  # noqa: E731
    function, _ = written(product, ((1, tokens, matrix.width), "float16"), matrix=matrix)
    text = str(tile_product(function))
    assert "T.parallel" in text
    assert text.count("T.vectorized") >= 3


@pytest.mark.parametrize(("layout", "lanes"), [(K_MAJOR, False), (N_MAJOR, True)])
def test_a_square_matrix_is_read_along_its_contiguous_axis(layout, lanes):
    matrix = matrix_of(MAX_TILE, MAX_TILE, layout, "int8-per-channel")
    product = lambda x, stored: dense.matmul(matrix, "float32", x, stored)  # noqa: E731
    function, inputs = written(product, ((1, TOKENS, MAX_TILE), "float32"), matrix=matrix)
    assert ("matmul_rf" in assert_tiles_agree(function, inputs)) == lanes
