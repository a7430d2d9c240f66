"""The graph of the proof: the answers of ``decode`` for a whole chunk at once, over the same
weights, and the kernels that the memory allows."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import FLOAT32_FLOOR, emitted, ids_for, reference_of, token_snr_db
from litert_artifacts import litert_job
from slmkit.errors import BackendError
from slmkit_litert.contract import PROOF
from slmkit_litert.runner import LitertRunner
from slmkit_litert.verify import graphs
from slmkit_litert.verify.graphs import BUILT_IN, XNNPACK
from tiers import SCHEMES, some

CHOSEN = ["int4-g32", "int4-free-g32", "int8-per-channel", ""]


@pytest.mark.parametrize("scheme", some(CHOSEN, "int4-g32", "int8-per-channel", why=SCHEMES))
def test_a_chunk_as_shipped_has_the_logits_of_decode_bit_for_bit(tiny, tmp_path, scheme):
    job = litert_job(tiny("llama-tied"), tmp_path, scheme)
    artifact, ids = emitted(job, tmp_path / "litert"), ids_for(job)
    chunks, tokens = (LitertRunner(tmp_path / "litert", artifact, "shipped") for _ in range(2))
    tokens._proof = None  # every token is decoded
    np.testing.assert_array_equal(chunks.feed(ids), tokens.feed(ids))
    assert PROOF in chunks.graphs.signatures and PROOF not in tokens.graphs.signatures


@pytest.mark.parametrize("without", [False, True])
def test_a_prefill_that_leaves_another_cache_or_none_is_found(tiny, tmp_path, monkeypatch, without):
    job = litert_job(tiny("llama"), tmp_path)
    artifact = emitted(job, tmp_path / "litert")
    runner = LitertRunner(tmp_path / "litert", artifact, "shipped")
    right = LitertRunner._run

    def wrong(self, name, tokens, ids, position):
        found = right(self, name, tokens, ids, position)
        if name == self.prefill_name:
            keys = found.pop("kv_cache_k_0")
            found |= {} if without else {"kv_cache_k_0": keys * 1.001}
        return found

    monkeypatch.setattr(LitertRunner, "_run", wrong)
    with pytest.raises(BackendError, match="prefill leaves another kv_cache_k_0"):
        runner.feed(ids_for(job))


@pytest.mark.parametrize(("memory", "kernels"), [(0, BUILT_IN), (10**9, XNNPACK)])
def test_without_memory_to_pack_weights_litert_s_own_kernels_run(
    tiny, tmp_path, monkeypatch, memory, kernels
):
    monkeypatch.setattr(graphs, "may_keep", lambda most: min(most, memory))
    job = litert_job(tiny("llama-tied"), tmp_path)
    artifact = emitted(job, tmp_path / "litert")
    runner = LitertRunner(tmp_path / "litert", artifact, "float32")
    assert f", {kernels}, float32" in runner.runtime
    got = runner.feed(ids_for(job))
    assert token_snr_db(reference_of(job), got).min() > FLOAT32_FLOOR
