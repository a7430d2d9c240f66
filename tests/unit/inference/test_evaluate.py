"""Files of questions: read whole, or refused with the line's number."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.errors import SlmkitError
from slmkit.inference.evaluate import read_examples

LINES = st.dictionaries(
    st.sampled_from(["prompt", "answer", "kind", "more"]),
    st.text(st.characters(), max_size=4) | st.none() | st.integers() | st.lists(st.text()),
)


@given(st.lists(LINES.map(json.dumps) | st.text(max_size=20), max_size=4))
def test_any_lines_are_questions_or_one_sentence(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("any") / "data.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    try:
        for each in read_examples(path):
            f"{each.prompt}{each.answer}{each.kind}".encode()
    except SlmkitError as error:
        assert error.hint and "\n" not in error.message.replace(str(path), "")


def test_half_of_a_surrogate_pair_is_no_question(tmp_path):
    good = '{"prompt": "hi \\ud83d\\ude80", "answer": "x"}'
    (tmp_path / "data").write_text(f'{good}\n{{"prompt": "\\ud83d", "answer": "x"}}\n')
    with pytest.raises(SlmkitError, match="line 2, is not an example"):
        read_examples(tmp_path / "data")
