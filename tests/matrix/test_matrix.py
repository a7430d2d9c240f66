"""Every family through every artifact: none is refused, all keep the floors."""

from __future__ import annotations

import pytest

from all_artifacts import THROUGH, problems
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY


@pytest.mark.parametrize("artifact", THROUGH)
@pytest.mark.parametrize("row", some(TINY, SAYS_MOST, why=ROWS))
def test_a_family_keeps_an_artifact_s_floors(tiny, tmp_path, row, artifact):
    folder = tiny(row)
    assert problems(folder, artifact) == []
    THROUGH[artifact](folder, tmp_path, row)
