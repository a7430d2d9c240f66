"""The report on held-out text, in words."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
from rich.console import Console

from slmkit.cli.tables.quality import price_words, quality_note, quality_table
from slmkit.evaluation.divergence import Divergence
from slmkit.evaluation.flips import flips
from slmkit.evaluation.gate import REFUSED, Quality, judged


def line(artifact, mode, kl, top1):
    none = flips(np.ones(9, bool), np.ones(9, bool))
    return judged(artifact, mode, "NumPy", Divergence(9, kl, kl, top1, 5, 4, none, 10), REFUSED)


LINES = (
    line("ort, mlc", "codes", 0.04, 0.97),
    line("coreml", "codes", 0.2, 0.85),
    line("ort", "shipped", 0.3, 0.7),
    line("mlc", "float16", math.nan, 0.0),
)
FOUND = Quality(4, 12, 9, 300, 20.0, 3.0, True, REFUSED, LINES, ("coreml: it is slow",))


def shown(quality):
    written = io.StringIO()
    Console(file=written, width=80).print(quality_table(quality))
    return [each.split() for each in written.getvalue().splitlines()]


def test_each_line_has_its_price_and_verdict():
    rows = {tuple(row[:-6]): row[-6:] for row in shown(FOUND)[3:]}
    assert rows["ort,", "mlc", "codes"] == ["0.04", "0.04", "97.0%", "5", "small", "pass"]
    assert rows["coreml", "codes"][-2:] == ["medium", "warn"]
    assert rows["ort", "shipped"][-2:] == ["large", "FAIL"]
    assert rows["mlc", "float16"] == ["NaN", "NaN", "0.0%", "5", "large", "FAIL"]


def test_the_note_tells_the_price_the_warnings_and_what_is_missing():
    note = quality_note(FOUND)
    assert "the recipe's price: small (ort, mlc codes)" in note
    assert "the recipe's price: medium (coreml codes)" in note
    assert "warning: coreml codes: KL 0.2 is above 0.1" in note
    assert "not measured: coreml: it is slow" in note
    assert price_words(FOUND) == "medium: KL 0.2, top-1 85.0% on held-out text"


def test_of_random_weights_it_says_that_nothing_was_compared():
    random = replace(FOUND, trained=False, lines=())
    assert "no better than chance" in quality_note(random)
    assert price_words(random) == "not measured: weights are random"
    assert price_words(None) == "not measured"
