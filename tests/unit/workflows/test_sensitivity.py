"""Sensitivity: each linear by itself, out of the cache the second time; budgets in a build."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.cli.main import main
from slmkit.cli.sensitivity_plot import check_plot
from slmkit.errors import UsageError
from slmkit.interpreters.reference import logits
from slmkit.planning.allocation import average_bits, coarse
from slmkit.planning.calibration import calibration_texts
from slmkit.recipe.recipe import load_recipe
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit.workflows import sensitivity as module
from slmkit.workflows.sensitivity import OneQuantized, sensitivities, with_budget

TOKENS = 60


@pytest.fixture(scope="module")
def home():
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    return checkpoint, calibration_texts(checkpoint, None)


def test_every_linear_of_few_bits_is_measured_once(home, tmp_path, monkeypatch):
    checkpoint, texts = home
    recipe, cache = load_recipe("int4"), Cache(tmp_path)
    found = sensitivities(checkpoint, recipe, texts, cache, Silent(), TOKENS)
    assert [each.name for each in found] == list(coarse(checkpoint.model, recipe))
    assert all(each.kl > 0 and each.bits == 4 for each in found)
    monkeypatch.setattr(module, "against_answers", None)
    assert sensitivities(checkpoint, recipe, texts, cache, Silent(), TOKENS) == found


def test_one_matrix_alone_is_quantized(home):
    checkpoint, _ = home
    name = "model.layers.0.mlp.down_proj"

    class Doubled:
        vector = checkpoint.shards.vector

        def rows(self, tensor, rows):
            return 2 * checkpoint.shards.rows(tensor, rows)

        def blocks(self, tensor):
            return ((first, 2 * block) for first, block in checkpoint.shards.blocks(tensor))

    one = OneQuantized(checkpoint.shards, Doubled(), name)
    for tensor in (f"{name}.weight", "model.layers.1.mlp.down_proj.weight"):
        factor = 2 if tensor == f"{name}.weight" else 1
        expected = factor * checkpoint.shards.rows(tensor, slice(0, 4))
        np.testing.assert_array_equal(one.rows(tensor, slice(0, 4)), expected)
    ids = np.arange(20)
    changed = logits(one, checkpoint.spec, [ids])[0]
    assert not np.allclose(changed, logits(checkpoint.shards, checkpoint.spec, [ids])[0])


def test_a_budget_becomes_rules_by_what_was_measured(home, tmp_path):
    checkpoint, texts = home
    recipe = load_recipe("int4").model_copy(update={"bits_budget": 5.5})
    found = with_budget(checkpoint, recipe, texts, Cache(tmp_path), Silent())
    linears = list(coarse(checkpoint.model, recipe))
    assert 5.2 < average_bits(checkpoint.model, found, linears) <= 5.5
    assert list(tmp_path.glob("sensitivity-*"))


def test_names_alone_need_no_measurement(home, tmp_path):
    checkpoint, texts = home
    recipe = load_recipe("int4-compact")
    linears = list(coarse(checkpoint.model, recipe))
    sizes = {name: np.prod(checkpoint.model.shapes[name]) for name in linears}
    named = sum(size for name, size in sizes.items() if name.endswith(("v_proj", "o_proj")))
    budget = 4 + 4 * float(named / sum(sizes.values())) + 1e-9
    recipe = recipe.model_copy(update={"bits_budget": budget})
    found = with_budget(checkpoint, recipe, texts, Cache(tmp_path), Silent())
    assert average_bits(checkpoint.model, found, linears) == pytest.approx(budget)
    assert not list(tmp_path.glob("sensitivity-*"))


def test_the_command_prints_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    words = ["sensitivity", "--tokens", str(TOKENS), "--cache", str(tmp_path / "cache")]
    plot = tmp_path / "plot.svg"
    shown = CliRunner().invoke(main, [*words, "--plot", str(plot)])
    assert shown.exit_code == 0, shown.output
    assert "k_proj" in shown.stdout and plot.read_text().count("<path") > 10
    found = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert {"name", "layer", "parameters", "bits", "kl"} <= set(found[0])


def test_a_plot_that_cannot_be_written_is_refused_before_the_work():
    with pytest.raises(UsageError, match="not a picture's name"):
        check_plot(Path("plot.txt"))
    with pytest.raises(UsageError, match="no such folder"):
        check_plot(Path("nowhere/plot.svg"))
