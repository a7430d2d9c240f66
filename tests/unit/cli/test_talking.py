"""The commands run and chat, as a user meets them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.cli.main import main
from slmkit.inference.load import ReferenceRunner

PROMPT = "turn off the kitchen lights at 7 pm"
WHOLE = '{"intent":"light","room":"kitchen","state":"off","time":"19:00"}'


def slmkit(*words, expect=0, stdin=None):
    result = CliRunner().invoke(main, [str(word) for word in words], input=stdin)
    assert result.exit_code == expect, result.output + result.stderr
    return result


def test_a_prompt_is_read_from_stdin():
    assert slmkit("run", SAMPLE_MODEL, "--prompt", "-", stdin=PROMPT).stdout == f"{WHOLE}\n"


def test_times_are_told_beside_the_answer():
    found = slmkit("run", SAMPLE_MODEL, "--prompt", PROMPT, "--stats")
    assert found.stdout == f"{WHOLE}\n"
    for part in ("load ", "first token ", "prompt 12 tokens, ", "answer ", "peak memory "):
        assert part in found.stderr


def test_an_answer_by_a_schema(tmp_path):
    file = tmp_path / "schema.json"
    file.write_text(json.dumps({"enum": [{"intent": "joke"}]}))
    words = ("run", SAMPLE_MODEL, "--prompt", PROMPT, "--json-schema", file)
    assert json.loads(slmkit(*words).stdout) == {"intent": "joke"}
    cut = slmkit(*words, "--max-tokens", 2, expect=1)
    assert "not all of the JSON" in cut.stderr and cut.stdout.startswith('{"')


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--json-schema", "{", "is not JSON"),
        ("--json-schema", "[]", "is not an object"),
        ("--tools", "{}", "is not a list"),
        ("--tools", '[{"name": "f"}]', "has no place for tools"),
        ("--json-schema", '{"type": "poem"}', "cannot be followed"),
    ],
)
def test_bad_files_are_refused(tmp_path, option, text, said):
    file = tmp_path / "file.json"
    file.write_text(text)
    assert said in slmkit("run", SAMPLE_MODEL, "--prompt", "hi", option, file, expect=2).stderr


def test_a_chat_remembers_and_forgets():
    lines = ["", PROMPT, "/stats", "set a timer", "/stats", "/reset", "/help", "/exit", "never"]
    found = slmkit("chat", SAMPLE_MODEL, stdin="\n".join(lines))
    assert found.stdout.startswith(f"{WHOLE}\n") and found.stdout.count("\n") == 2
    assert found.stderr.count("first token") == 2 and found.stderr.count("held already") == 1
    assert "forgotten" in found.stderr and "Ctrl-C stops an answer" in found.stderr


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(monkeypatch):
    feed, calls = ReferenceRunner.feed, []

    def interrupted(self, ids):
        calls.append(len(ids))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return feed(self, ids)

    monkeypatch.setattr(ReferenceRunner, "feed", interrupted)
    found = slmkit("chat", SAMPLE_MODEL, stdin=f"{PROMPT}\n{PROMPT}\n")
    first, second = found.stdout.splitlines()[:2]
    assert WHOLE.startswith(first) and first != WHOLE and second.startswith("{")
    assert "(stopped)" in found.stderr


def test_a_question_that_does_not_fit_leaves_the_chat_open():
    found = slmkit("chat", SAMPLE_MODEL, stdin=f"{'word ' * 1000}\n{PROMPT}\n")
    assert "tokens, the context" in found.stderr and found.stdout == f"{WHOLE}\n"
