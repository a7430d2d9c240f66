"""The soft cap inside of TVM's attention: in every kernel that scores, and nowhere else."""

from __future__ import annotations

import re

import pytest

from mlc_artifacts import mlc_job
from slmkit.errors import BackendError
from slmkit_mlc.gpus import known_gpus
from slmkit_mlc.kernels.soft_cap import add_soft_cap
from slmkit_mlc.lowering.definition import definition_for
from slmkit_mlc.lowering.kv_cache import SCORE_KERNELS
from slmkit_mlc.lowering.program import Writer
from slmkit_mlc.verify.machine import cpu_target

CAP = 4.0


def kernels(job, target):
    mod = Writer(definition_for(job).program("float16")).module(target, (), [])
    return {own.name_hint: each for own, each in mod.functions_items()}


@pytest.mark.parametrize("place", ["processor", "adreno"])
def test_every_kernel_that_scores_has_the_cap_once(tiny, tmp_path, place):
    target = cpu_target() if place == "processor" else known_gpus()[place].code_target
    capped = kernels(mlc_job(tiny("gemma2"), tmp_path), target)
    bare = kernels(mlc_job(tiny("gemma2", attn_logit_softcapping=None), tmp_path), target)
    assert set(capped) == set(bare)
    scoring = {name for name in bare if re.fullmatch(SCORE_KERNELS, name)}
    assert len(scoring) >= 5
    for name, kernel in bare.items():
        more = str(capped[name]).count("exp2(") - str(kernel).count("exp2(")
        assert more == (name in scoring), name


def test_a_kernel_without_scores_is_no_place_for_a_cap(tiny, tmp_path):
    merge = kernels(mlc_job(tiny("gemma2"), tmp_path), cpu_target())["kv_cache_transpose_append"]
    with pytest.raises(BackendError, match="keeps its scores elsewhere"):
        add_soft_cap(merge, CAP)
