"""Graphs of a few layers: the runners hold one part at a time where memory is short, and answer as
with all of them."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import emitted, ids_for
from hexagon_artifacts import hexagon_job
from slmkit.backend.partition import head_part, layers_part
from slmkit_onnx.hexagon import plan
from slmkit_onnx.hexagon.modes import open_runner
from slmkit_onnx.hexagon.partition import first_and_last
from slmkit_onnx.hexagon.verify import chain


def answers(runner, ids):
    """The logits of a prompt, of tokens after it, and of a second sequence."""
    runner.reset()
    fed = [runner.feed(ids[:30]), runner.feed(ids[30:33])]
    runner.reset()
    return [*fed, runner.feed(ids[:5])]


@pytest.mark.parametrize("model", ["qwen2-window", "lfm2"])
def test_parts_one_after_the_other_answer_like_all_at_once(tiny, tmp_path, monkeypatch, model):
    monkeypatch.setattr(plan, "MAX_EMULATED_PARAMETERS", 0)
    folder = tiny(model, num_hidden_layers=4, layer_types=None) if model != "lfm2" else tiny(model)
    job = hexagon_job(folder, tmp_path, part_limit=60_000)
    artifact, ids = emitted(job, tmp_path / "hexagon"), ids_for(job)
    names = [each["name"] for each in artifact.facts["parts"]]
    assert len(names) > 2 and len(artifact.facts["checks"]) >= len(names)
    for mode in (each.name for each in artifact.modes):
        about = tmp_path / "hexagon", artifact, mode
        whole = open_runner(*about)
        assert whole.parts == 1
        expected = answers(whole, ids)
        monkeypatch.setattr(chain, "may_keep", lambda most: 0)
        parted = open_runner(*about)
        assert parted.parts == len(artifact.facts["checks"] if "layers" in mode else names)
        for number in range(parted.parts):
            parted.open_part(number)
            got = answers(parted, ids)
            last = number == parted.parts - 1
            assert {each.shape[1] for each in got} == {job.spec.vocabulary if last else 0}
        monkeypatch.undo()
        for ours, theirs in zip(got, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_first_and_the_last_layer_stand_alone():
    halves = [layers_part(0, 3), layers_part(4, 7), head_part(8)]
    assert first_and_last(halves, 8) == [
        layers_part(0, 0),
        layers_part(1, 3),
        layers_part(4, 6),
        layers_part(7, 7),
        head_part(8),
    ]
    assert first_and_last([layers_part(0, 0), head_part(1)], 1) == [layers_part(0, 0), head_part(1)]
