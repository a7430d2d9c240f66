"""Files of values: read as they were written; written again only after nobody reads them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.interpreters.value_files import ValueFiles


@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (2, 3, 4)])
def test_an_array_is_read_as_it_was_written(tmp_path, shape):
    numbers = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    stored = ValueFiles(tmp_path).write(numbers.T)
    np.testing.assert_array_equal(stored.read(), numbers.T)


@given(st.lists(st.tuples(st.integers(0, 40), st.booleans(), st.booleans()), max_size=30))
def test_released_files_are_written_again_and_no_others(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("values")
    files, alive = ValueFiles(folder), {}
    for number, (size, release, reuse) in enumerate(steps):
        numbers = np.full(size, number, np.float32)
        alive[number] = files.write(numbers), numbers
        if release:
            files.release(alive.pop(min(alive))[0])
        if reuse:
            files.reuse()
        for stored, expected in alive.values():
            np.testing.assert_array_equal(stored.read(), expected)
    assert len(list(folder.iterdir())) <= len(steps)


def test_what_is_read_stays_until_files_are_reused(tmp_path):
    files = ValueFiles(tmp_path)
    first = files.write(np.ones(8, np.float32))
    read = first.read()
    files.release(first)
    assert files.write(np.zeros(8, np.float32)).path != first.path
    assert (read == 1).all()
    files.reuse()
    assert files.write(np.zeros(9, np.float32)).path == first.path  # of about the same size
    assert files.write(np.zeros(9, np.float32)).path != first.path


def test_threads_never_get_the_same_file(tmp_path):
    files = ValueFiles(tmp_path)
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            stored = list(pool.map(lambda n: files.write(np.full(9, n, np.float32)), range(40)))
        assert len({each.path for each in stored}) == 40
        for number, each in enumerate(stored):
            assert (each.read() == number).all()
            files.release(each)
        files.reuse()
    assert len(list(tmp_path.iterdir())) == 40
