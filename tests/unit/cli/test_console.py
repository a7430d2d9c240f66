"""Progress: how far the whole is, in lines and in bars."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from slmkit.cli import console
from slmkit.cli.console import Lines, shown_progress
from slmkit.cli.overall import Overall
from slmkit.system.progress import Silent


def test_the_whole_is_weighed_by_the_seconds_that_were_announced():
    whole = Overall()
    assert whole.total == 0 and whole.share == 0
    whole.expect({"short": 1, "long": 3})
    assert whole.words() == ["stage 1 of 2", "0%"]
    short = whole.begin("short", 10, None)
    whole.advance(short, 5)
    assert whole.share == pytest.approx(0.5 / 4)
    long = whole.begin("long", 100, short)  # ends the short one
    assert whole.share == pytest.approx(1 / 4)
    whole.advance(long, 50)
    assert whole.share == pytest.approx(2.5 / 4)
    assert whole.words()[:2] == ["stage 2 of 2", "62%"]
    whole.end(long)
    whole.end(long)  # once is enough
    assert whole.share == 1 and whole.words() == ["stage 2 of 2", "100%"]


def test_more_units_than_announced_are_not_more_than_the_stage():
    whole = Overall()
    whole.expect({"a": 1, "b": 1})
    whole.advance(whole.begin("a", 1, None), 5)
    assert whole.share == 0.5


def test_stages_that_nobody_announced_count_but_weigh_nothing():
    whole = Overall()
    whole.expect({"a": 1})
    whole.begin("extra", 1, None)
    assert whole.total == 2 and whole.share == 0


def test_time_left_is_told_once_there_is_a_pace(monkeypatch):
    whole = Overall()
    whole.expect({"a": 1, "b": 1})
    stage = whole.begin("a", 100, None)
    whole.advance(stage, 50)
    now = whole._began
    monkeypatch.setattr("slmkit.cli.overall.time.monotonic", lambda: now + 60)
    assert whole.words()[2] == "about 3 min left"
    monkeypatch.setattr("slmkit.cli.overall.time.monotonic", lambda: now + 6)
    assert whole.words()[2] == "under a minute left"


def test_lines_name_each_stage_and_now_and_then_the_whole(capsys, monkeypatch):
    monkeypatch.setattr(console, "PERIOD", 0.01)
    with shown_progress() as progress:
        progress.expect({"one": 1, "two": 1, "beside": 1})
        progress.stage("one", 2)
        progress.advance(2)
        with progress.branch() as own:
            own.stage("beside", 1)
        progress.stage("two", 1)
        assert isinstance(progress, Lines)
        progress.tell()
    lines = capsys.readouterr().err.splitlines()
    assert [each for each in lines if "..." not in each] == [
        "slmkit: one",
        "slmkit: beside",
        "slmkit: two",
    ]
    told = [each for each in lines if "..." in each]
    pattern = r"slmkit: \.\.\. stage \d of 3, \d+%(, .* left)?(, \d+\.\d GB)?"
    assert told and all(re.fullmatch(pattern, each) for each in told), told
    assert any("stage 3 of 3, 67%" in each for each in told)


def test_bars_show_the_whole_below_the_stages(monkeypatch):
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(console, "Console", lambda stderr: terminal)
    with shown_progress() as progress:
        progress.expect({"one": 1, "two": 3})
        progress.stage("one", 2)
        with progress.branch() as own:
            own.stage("two", 4)
            own.advance(4)
    text = screen.getvalue()
    assert "one" in text and "two" in text and "stage 2 of 2, 100%" in text


def test_quiet_is_silent(capsys):
    with shown_progress(quiet=True) as progress:
        assert isinstance(progress, Silent)
        progress.stage("one", 1)
    assert capsys.readouterr().err == ""
