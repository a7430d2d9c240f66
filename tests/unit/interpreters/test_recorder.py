"""The recorder's text of every tiny architecture: a model edit shows as a readable diff.

Renew: ``pytest tests/unit/interpreters/test_recorder.py --write-golden``, and read the diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from phone_shapes import PARAMETERS, spec_of
from slmkit.interpreters.recorder import record
from slmkit.models.config import Config
from slmkit.models.registry import MODELS, read_spec
from tiny_models import TINY, tiny_config

GOLDEN = Path(__file__).parent / "golden"


def recording(architecture: str) -> str:
    spec = read_spec(Config(tiny_config(architecture), "config.json"))
    recorded = record(spec)
    weights = [
        f"{tensor} {weight.kind} {weight.shape}" for tensor, weight in recorded.weights.items()
    ]
    return "\n".join([*recorded.lines, "", *weights, ""])


@pytest.mark.parametrize("architecture", TINY)
def test_an_architecture_says_what_it_said(architecture, request):
    path = GOLDEN / f"{architecture}.txt"
    text = recording(architecture)
    if request.config.getoption("--write-golden"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_model_type_has_a_tiny_row():
    assert {tiny_config(row)["model_type"] for row in TINY} == set(MODELS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_weights_of_a_public_shape_add_up_to_its_parameters(name):
    weights = record(spec_of(name)).weights
    assert sum(weight.size for weight in weights.values()) == PARAMETERS[name]


def test_the_inventory_counts_each_op():
    inventory = record(read_spec(Config(tiny_config("llama"), "config.json"))).inventory
    assert inventory["attend"] == 2
    assert inventory["linear"] == 2 * 7 + 1
