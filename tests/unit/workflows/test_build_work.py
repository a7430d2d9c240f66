"""The work that a build tells of, and the bundle that it keeps though it failed."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from slmkit.bundle.export import export
from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.roles import REPORT, SUMMARY
from slmkit.bundle.verify import verify
from slmkit.errors import BackendError, BundleError
from slmkit.parity.memo import Memo
from slmkit.parity.proof import Proof
from slmkit.recipe.bounds import Bound
from slmkit.recipe.recipe import load_recipe
from slmkit.system.jobs import Limits
from slmkit.system.progress import Silent
from slmkit.workflows.build import FailedParity, build
from tiny_models import ort_request

STRICT = {"parity": {"quantization": {"snr_db": 99}}}  # that no 4-bit codes keep


def strict(tmp_path):
    path = tmp_path / "strict.yaml"
    path.write_text(json.dumps({"extends": "int4", "name": "strict", "summary": "x", **STRICT}))
    return str(path)


def test_a_bundle_that_failed_is_kept_if_asked_and_nothing_ships_it(tiny, tmp_path):
    request = ort_request(tiny("llama"), strict(tmp_path), tmp_path / "out")
    with pytest.raises(FailedParity, match="no bundle was written"):
        build(request, Silent())
    assert not list((tmp_path / "out").glob("*"))
    for _ in range(2):  # the second takes the first one's place
        with pytest.raises(FailedParity) as caught:
            build(replace(request, keep_failed=True), Silent())
    (kept,) = (tmp_path / "out").iterdir()
    assert kept.name.endswith(".failed") and str(kept) in caught.value.message
    verify(kept)
    assert read_manifest(kept).failures
    with pytest.raises(BundleError, match="failed its proof"):
        export(kept, "ort", tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_jobs_side_by_side_give_the_bundle_of_one_after_the_other(tiny, tmp_path):
    request = ort_request(tiny("qwen2"), "int4", tmp_path / "beside")
    after = replace(request, out=tmp_path / "after", limits=Limits(jobs=1))
    first, second = (build(each, Silent()).manifest for each in (request, after))
    stages = {each.label: each for each in first.stages}
    assert {"emit ort", "run ort, exact", "run ort, shipped", "reference on codes"} <= set(stages)
    assert set(stages) == {each.label for each in second.stages}
    assert len(stages) == len(first.stages)
    asked = [stages[each].start for each in ("emit ort", "prompts of ort", "run ort, exact")]
    assert asked == sorted(asked)
    assert stages["run ort, exact"].start < stages["reference on floats"].start  # of its answers
    assert all(each.seconds >= 0 and each.start >= 0 for each in stages.values())
    assert all(each.memory is None or each.memory > 10**7 for each in stages.values())
    pages = (REPORT, SUMMARY)  # with the times
    files, others = ([f for f in each.files if f.path not in pages] for each in (first, second))
    assert files == others and first.parity == second.parity


class Stages(Silent):
    """The labels of all stages."""

    def __init__(self):
        self.labels = []

    def stage(self, label: str, total: int) -> None:
        self.labels.append(label)


def runs_of(request):
    stages = Stages()
    manifest = build(request, stages).manifest
    ran = [each for each in stages.labels if each.startswith(("run ", "reference "))]
    return manifest, ran


def test_a_proof_is_remembered_until_anything_that_it_depends_on_changes(tiny, tmp_path):
    model = tiny("llama")
    request = ort_request(model, "int4", tmp_path / "out", cache=tmp_path / "cache")
    first, ran = runs_of(request)
    assert {"run ort, exact", "run ort, shipped", "reference on codes"} <= set(ran)
    again = replace(request, force=True)
    second, ran = runs_of(again)
    assert ran == []
    assert second.parity == first.parity and second.quality == first.quality
    assert [f for f in second.files if f.role == "proof"] == [
        f for f in first.files if f.role == "proof"
    ]
    _, ran = runs_of(replace(again, context=first.context_length // 2))
    assert {"run ort, exact", "run ort, shipped", "reference on codes"} <= set(ran)
    recipe = load_recipe("int4")
    bounds = {**recipe.parity, "lowering": Bound(snr_db=101, top1=1.0)}
    _, ran = runs_of(replace(again, recipe=recipe.model_copy(update={"parity": bounds})))
    assert "run ort, exact" in ran


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_artifact_that_was_judged_before_a_build_failed_is_not_run_again(
    tiny, tmp_path, monkeypatch, jobs
):
    about = {"cache": tmp_path / "cache", "limits": Limits(jobs)}
    request = ort_request(tiny("llama"), "int4", tmp_path / "out", **about)
    request = replace(request, artifacts=("ort", "litert"))
    run, keep, judged = Proof._run, Memo.keep, threading.Event()

    def kept(self, artifact, *others):
        keep(self, artifact, *others)
        judged.set()

    def failing(self, artifact, mode, *others):
        if (artifact.name, mode.name) == ("litert", "shipped"):
            assert judged.wait(60)
            raise BackendError("this run", "fails")
        return run(self, artifact, mode, *others)

    with monkeypatch.context() as broken:
        broken.setattr(Memo, "keep", kept)
        broken.setattr(Proof, "_run", failing)
        with pytest.raises(BackendError, match="this run"):
            runs_of(request)
    manifest, ran = runs_of(request)
    assert {each for each in ran if each.startswith("run")} == {
        "run litert, float32",
        "run litert, shipped",
    }
    assert {each.artifact for each in manifest.parity} >= {"ort", "litert"}
