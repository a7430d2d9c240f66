"""The gate: who is trained, which bound holds, what it says, and on which text."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from slmkit.backend.interface import Artifact, Mode, SequenceState
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.errors import SlmkitError
from slmkit.evaluation.divergence import Divergence
from slmkit.evaluation.flips import flips
from slmkit.evaluation.gate import REFUSED, gate_bound, gate_mode, judged
from slmkit.evaluation.held_out import RUN, artifact_tokens, held_out_text
from slmkit.evaluation.text import HELD_OUT, UNSCORED
from slmkit.planning.calibration import calibration_texts
from slmkit.recipe.bounds import Bound
from tiny_models import tiny_config, write_checkpoint


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkpoint without texts of its own."""
    folder = tmp_path_factory.mktemp("plain")
    return open_checkpoint(write_checkpoint(folder, tiny_config("llama")))


def artifact(shipped, *modes):
    state = SequenceState(16, (), 1, 1, ())
    return Artifact("x", "1", "x", modes, (), (), state, shipped=shipped)


def line(kl=0.0, top1=1.0, bound=REFUSED):
    none = flips(np.ones(3, bool), np.ones(3, bool))
    found = Divergence(3, kl, 2 * kl, top1, 5.0, 4.0, none, 10)
    return judged("all", "codes", "NumPy", found, bound)


@pytest.mark.parametrize(
    ("kl", "top1", "price", "failures", "warnings"),
    [
        (0.1, 0.9, "small", 0, 0),
        (0.11, 0.95, "medium", 0, 1),
        (0.05, 0.89, "medium", 0, 1),
        (0.25, 0.8, "medium", 0, 2),
        (0.26, 0.95, "large", 1, 0),
        (0.05, 0.79, "large", 1, 0),
        (math.nan, 0.95, "large", 1, 0),
    ],
)
def test_the_price_is_small_medium_or_large(kl, top1, price, failures, warnings):
    found = line(kl, top1)
    assert found.price == price
    assert (len(found.failures), len(found.warnings)) == (failures, warnings)


def test_a_recipe_may_ask_for_other_limits_but_loosens_none_by_the_way():
    assert gate_bound(Bound()) == REFUSED
    assert gate_bound(Bound(snr_db=25)) == REFUSED
    assert gate_bound(Bound(snr_db=3, max_kl=0.5)) == Bound(max_kl=0.5, top1=0.8)
    loose = line(0.4, 0.85, gate_bound(Bound(max_kl=0.5)))
    assert not loose.failures and loose.price == "large" and loose.warnings
    strict = line(0.04, 0.95, gate_bound(Bound(max_kl=0.01)))
    assert strict.failures == ("KL 0.04 is above 0.01",) and strict.price == "small"


def test_the_mode_is_the_one_that_apps_run_or_the_nearest_quick_one():
    a, b = Mode("a", "", {}), Mode("b", "", {})
    slow = Mode("slow", "", {}, prompts=1)
    assert gate_mode(artifact("a", a, b)) == a
    assert gate_mode(artifact("slow", a, b, slow)) == b
    assert gate_mode(artifact("", a, b, slow)) == b
    assert gate_mode(artifact("slow", slow)) is None


def test_large_models_read_less(plain):
    small = held_out_text(plain, (), 10**6, 512)
    large = held_out_text(plain, (), 10**9, 512)
    assert large.tokens < small.tokens / 2
    assert max(len(ids) for ids in small.sequences) == 256
    assert max(len(ids) for ids in held_out_text(plain, (), 1, 16).sequences) == 16


def test_artifacts_read_a_part_of_the_text_and_its_positions_are_known(plain):
    text = held_out_text(plain, (), 10**6, 256)
    part, spans = text.part(artifact_tokens(10**6))
    assert text.tokens > 3 * part.tokens > 1500
    scored = text.following[text.following != UNSCORED]
    chosen = np.concatenate([scored[span] for span in spans])
    np.testing.assert_array_equal(chosen, part.following[part.following != UNSCORED])
    whole, every = text.part(10**9)
    assert whole.tokens == text.tokens and sum(each.stop - each.start for each in every) == len(
        scored
    )


def test_a_checkpoint_s_own_held_out_text_is_read():
    home = open_checkpoint(SAMPLE_MODEL)
    text = held_out_text(home, calibration_texts(home, None), 1, 256)
    assert '{"intent"' in home.tokenizer.decode(text.sequences[0].tolist())


def test_shipped_calibration_holds_no_held_out_text(plain):
    assert held_out_text(plain, calibration_texts(plain, None), 1, 256).positions > 500


@pytest.mark.parametrize("form", ["jsonl", "txt"])
def test_calibration_with_the_held_out_text_is_refused(plain, tmp_path, form):
    path = tmp_path / f"mine.{form}"
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    if form == "txt":
        values = [json.loads(each) for each in lines]
        lines = [each.get("text") or each["messages"][1]["content"] for each in values]
    path.write_text("\n".join(["Something of my own."] * 30 + lines), encoding="utf-8")
    if form == "jsonl":
        path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SlmkitError, match=r"holds text of held_out\.jsonl") as caught:
        held_out_text(plain, calibration_texts(plain, path), 1, 256)
    assert caught.value.hint


def test_a_few_common_words_are_no_overlap(plain):
    text = held_out_text(plain, (), 1, 256)
    some = text.sequences[0][: RUN - 1].tolist()
    assert held_out_text(plain, [some], 1, 256).windows
    with pytest.raises(SlmkitError, match="holds text of"):
        held_out_text(plain, [text.sequences[0][:RUN].tolist()], 1, 256)
