"""The layer number of a weight's name."""

from __future__ import annotations

import pytest

from slmkit.models.names import layer_of


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("model.layers.3.mlp.up_proj", 3),
        ("backbone.layers.12.mixer.in_proj", 12),
        ("model.embed_tokens", None),
        ("model.layers.norm", None),
    ],
)
def test_a_name_holds_the_number_of_its_layer_or_none(name, layer):
    assert layer_of(name) == layer
