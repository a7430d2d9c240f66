"""Text for evaluation: windows, positions that are scored, and no text twice."""

from __future__ import annotations

import json

import numpy as np
import pytest

from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.errors import SlmkitError
from slmkit.evaluation.text import UNSCORED, evaluation_text, windows_of
from slmkit.planning.calibration import calibration_texts
from tiny_models import BOS, tiny_config, write_checkpoint
from tiny_tokenizers import begin_with_bos


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A checkpoint whose tokenizer begins with bos."""
    folder = write_checkpoint(tmp_path_factory.mktemp("plain"), tiny_config("llama"))
    begin_with_bos(folder)
    return open_checkpoint(folder)


def test_every_token_but_the_last_of_a_window_predicts_the_next():
    text = windows_of([np.asarray([5, 6, 7]), np.asarray([8, 9])])
    assert text.following.tolist() == [6, 7, UNSCORED, 9, UNSCORED]
    assert (text.tokens, text.positions) == (5, 3)


def test_a_beginning_that_was_read_before_is_not_scored_again():
    rows = [[1, 2, 3, 4], [1, 2, 5, 6], [1, 2, 3, 4], [2, 3, 4], [1, 2]]
    text = windows_of([np.asarray(row) for row in rows])
    assert [window.first for window in text.windows] == [0, 2, 0]
    assert text.following.tolist() == [2, 3, 4, -1, -1, -1, 6, -1, 3, 4, -1]


def test_a_plain_text_is_cut_without_losing_a_token(plain, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(map(str, range(300))), encoding="utf-8")
    ids = plain.tokenizer.encode(path.read_text(encoding="utf-8"))
    text = evaluation_text(plain.tokenizer, path, window=50, tokens=10**6)
    body = [token for window in text.windows for token in window.ids.tolist()[1:]]
    assert [BOS, *body] == ids
    assert all(window.ids[0] == BOS and len(window.ids) <= 50 for window in text.windows)


def test_about_so_many_tokens_are_read_from_all_over_the_text(plain, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(" ".join(map(str, range(3000))), encoding="utf-8")
    text = evaluation_text(plain.tokenizer, path, window=50, tokens=500)
    assert 450 <= text.tokens <= 550
    whole = evaluation_text(plain.tokenizer, path, window=50, tokens=10**6)
    assert text.sequences[0].tolist() == whole.sequences[0].tolist()
    assert text.sequences[-1].tolist() == whole.sequences[-1].tolist()


def test_the_built_in_text_begins_as_in_use_and_is_no_calibration():
    home = open_checkpoint(SAMPLE_MODEL)
    text = evaluation_text(home.tokenizer, None, window=64, tokens=10**6)
    known = {tuple(ids[:64]) for ids in calibration_texts(home, None)}
    assert not known & {tuple(ids.tolist()) for ids in text.sequences}
    begun = home.tokenizer.encode("<bos><|user|>", special=False)
    assert sum(ids[: len(begun)].tolist() == begun for ids in text.sequences) > 10


@pytest.mark.parametrize("content", ["", "a", json.dumps({"text": "a"})])
def test_a_text_of_one_token_is_refused(content, tmp_path):
    path = tmp_path / ("text.jsonl" if content.startswith("{") else "text.txt")
    path.write_text(content, encoding="utf-8")
    home = open_checkpoint(SAMPLE_MODEL)
    with pytest.raises(SlmkitError, match=r"too short|holds no text"):
        evaluation_text(home.tokenizer, path)
