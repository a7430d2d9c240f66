"""Ids that the model has no embedding for, and rows that no token has."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from slmkit.backend.job import token_facts
from slmkit.backend.tokenizer_files import ship_file
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError, SlmkitError
from slmkit.inference.load import load
from tiny_tokenizers import BEGIN

IMAGE = "<image_soft_token>"  # Gemma 3's text models: one token more than rows of the embedding


def add_token(folder, name=IMAGE, special=True):
    """Add a token to a folder's tokenizer. Its id."""
    path = folder / "tokenizer.json"
    library = Library.from_file(str(path))
    library.add_tokens([AddedToken(name, special=special, normalized=False)])
    library.save(str(path))
    return library.token_to_id(name)


def settings(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def rows(tiny):
    """The number of tokens that the tiny tokenizer has."""
    return Tokenizer(tiny("llama")).size


def test_a_special_token_without_a_row_is_a_notice(tiny, rows):
    folder = tiny("gemma3", vocab_size=rows)
    assert add_token(folder) == rows
    checkpoint = open_checkpoint(folder)
    assert len(checkpoint.notices) == 1
    assert f"'{IMAGE}' (id {rows}) has no embedding" in checkpoint.notices[0]
    assert checkpoint.tokenizer.encode("the fox")


def test_a_text_that_spells_it_out_is_one_sentence_at_run(tiny, rows):
    folder = tiny("gemma3", vocab_size=rows)
    add_token(folder)
    session = load(folder)
    with pytest.raises(SlmkitError, match=f"token {rows} .'{IMAGE}'. has no embedding"):
        session.generate(f"see {IMAGE}", max_tokens=1)
    for wrong in (rows, -1):
        with pytest.raises(SlmkitError, match="has no embedding"):
            session.logits([3, wrong])
    assert session.logits([3, rows - 1]).shape == (2, rows)


@pytest.mark.parametrize("name", ["a word", "[PAD]"])
def test_a_token_that_text_can_become_is_refused(tiny, rows, name):
    folder = tiny("llama", vocab_size=rows)
    add_token(folder, name, special=False)
    with pytest.raises(CheckpointError, match="becomes token") as caught:
        open_checkpoint(folder)
    assert "resize_token_embeddings" in caught.value.hint


def test_ids_are_looked_at_not_their_number(tiny):
    folder = tiny("llama", vocab_size=320)
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"]["zq"] = 400
    values["model"]["merges"].append(["z", "q"])
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="'zq' becomes token 400"):
        open_checkpoint(folder)


def test_what_the_tokenizer_or_template_writes_itself_must_have_a_row(tiny, rows):
    folder = tiny("llama", vocab_size=rows)
    add_token(folder)
    settings(folder, chat_template="{{ messages[0].content }}" + IMAGE)
    with pytest.raises(CheckpointError, match=f"the template has '{IMAGE}'"):
        open_checkpoint(folder)
    settings(folder, chat_template=None)
    assert open_checkpoint(folder).notices
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    begin = json.dumps(json.loads(BEGIN.__getstate__())).replace("<s>", IMAGE)
    processor = json.loads(begin)
    processor["special_tokens"][IMAGE]["ids"] = [rows]
    values["post_processor"] = processor
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="begins or ends a text with"):
        open_checkpoint(folder)


def test_roles_and_stop_ids_without_a_row_are_not_handed_on(tiny, rows):
    folder = tiny("llama", vocab_size=rows)
    add_token(folder, "[PAD]")
    settings(folder, pad_token="[PAD]")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, rows]}))
    checkpoint = open_checkpoint(folder)
    facts = token_facts(checkpoint.tokenizer, folder)
    assert (facts.bos, facts.stop, facts.pad) == (1, (2,), None)
    assert any(f"eos_token_id {rows} is beyond" in each for each in checkpoint.notices)


def test_an_artifact_s_tokenizer_reads_the_name_as_text(tiny, rows, tmp_path):
    folder = tiny("llama", vocab_size=rows)
    add_token(folder)
    settings(folder, added_tokens_decoder={"0": {"content": "<pad>"}, str(rows): {"content": "x"}})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        ship_file(folder / name, tmp_path, rows)
    shipped = Library.from_file(str(tmp_path / "tokenizer.json"))
    ids = shipped.encode(f"see {IMAGE}").ids
    assert max(ids) < rows
    assert shipped.decode(ids) == f"see {IMAGE}"
    before = Library.from_file(str(folder / "tokenizer.json"))
    assert shipped.encode("the quick fox").ids == before.encode("the quick fox").ids
    kept = json.loads((tmp_path / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert list(kept) == ["0"]


def test_files_without_such_tokens_are_shipped_as_they_are(tiny, tmp_path):
    folder = tiny("llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        ship_file(folder / name, tmp_path, 320)
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_rows_without_a_token_are_padding_and_never_sampled(tiny, rows, monkeypatch):
    folder = tiny("llama", vocab_size=rows + 5)
    session = load(folder)
    assert session.tokenizer.padding == tuple(range(rows, rows + 5))
    padded = np.float32(1e4) * (np.arange(rows + 5) >= rows)
    feed = session.runner.feed
    monkeypatch.setattr(session.runner, "feed", lambda ids: feed(ids) + padded)
    assert session.generate("hi", max_tokens=3, raw=True)
