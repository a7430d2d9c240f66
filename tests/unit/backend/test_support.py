"""What a backend declares of itself becomes refusals, each one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmkit.backend.support import (
    Refusal,
    Support,
    one_of,
    refuse_asymmetric,
    refuse_float16,
    refuse_groups,
    refuse_palettes,
    summarize_names,
    whole_number,
)
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.recipe.scheme import Scheme
from tiny_models import tiny_config

INT4 = Scheme(encoding="group-wise", bits=4, group_size=32)
INT8_GROUPS = Scheme(encoding="group-wise", bits=8, group_size=32)
ASYMMETRIC = Scheme(encoding="group-wise", bits=4, group_size=32, symmetric=False)
PALETTE = Scheme(encoding="palette", bits=4, group_rows=16)
HALF = Scheme(encoding="float16")


def model_of(architecture="llama", **changes):
    config = tiny_config(architecture, **changes)
    return summarize(read_spec(Config(config, "config.json")))


def everywhere(model, scheme):
    return dict.fromkeys(model.matrices, scheme)


def test_a_model_that_fits_has_no_problem():
    model = model_of()
    support = Support("abacus", options={"beads": one_of(1, 2)}, widest_head=16, windows=0)
    assert support.problems(model, everywhere(model, INT4), {"beads": 2}) == []


@pytest.mark.parametrize(
    ("refusal", "scheme"),
    [
        (refuse_float16("why"), HALF),
        (refuse_palettes("why"), PALETTE),
        (refuse_asymmetric("why"), ASYMMETRIC),
        (refuse_groups(8, "why"), INT8_GROUPS),
        (Refusal(lambda scheme: scheme.scales == "free", "why"), INT4),
    ],
)
def test_a_refused_scheme_is_one_sentence_for_all_its_weights(refusal, scheme):
    model = model_of()
    support = Support("abacus", options={}, refusals=(refusal,))
    (said,) = support.schemes(model, everywhere(model, scheme))
    assert said.startswith("abacus cannot take ") and said.endswith(f" in {scheme}: why")
    assert "model.layers.*.mlp.up_proj (2)" in said and "lm_head" in said
    other = HALF if scheme is not HALF else PALETTE
    if not refusal.refuses(other):
        assert support.schemes(model, everywhere(model, other)) == []


def test_a_table_that_is_only_looked_up_is_checked_unless_declared():
    model = model_of()
    schemes = {**everywhere(model, INT4), "model.embed_tokens": HALF}
    strict = Support("abacus", options={}, refusals=(refuse_float16("why"),))
    assert strict.schemes(model, schemes) == [
        "abacus cannot take model.embed_tokens in float16: why"
    ]
    assert replace(strict, any_table=True).schemes(model, schemes) == []


def test_groups_that_must_divide_the_inputs_are_checked_for_linears():
    model = model_of("llama-narrow-heads")  # a feed-forward of 100
    support = Support("abacus", options={}, whole_groups="use encoding: per-channel")
    (said,) = support.schemes(model, everywhere(model, INT4))
    assert "mlp.down_proj" in said and "100 inputs are no multiple of its groups" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beads": 3}, "artifacts.abacus.beads is 3, expected one of 1, 2"),
        ({"beads": True}, "artifacts.abacus.beads is True, expected one of 1, 2"),
        ({"wires": 9}, "artifacts.abacus.wires is 9, expected 1 to 8"),
        ({"wires": 2.0}, "artifacts.abacus.wires is 2.0, expected 1 to 8"),
        ({"colour": 1}, "artifacts.abacus.colour: unknown key; known: beads, wires"),
    ],
)
def test_a_wrong_option_is_named_by_its_key(options, said):
    known = {"beads": one_of(1, 2), "wires": whole_number(1, 8, "1 to 8")}
    model = model_of()
    assert Support("abacus", options=known).problems(model, {}, options) == [said]


def test_an_op_that_not_every_backend_has_is_refused_unless_declared():
    model = model_of()
    strange = replace(model, ops={**model.ops, "sort": 2})
    assert Support("abacus", options={}).problems(strange, {}, {}) == [
        "abacus has no form of the op sort"
    ]
    support = Support("abacus", options={}, more_ops=frozenset({"sort"}))
    assert support.problems(strange, {}, {}) == []


def test_attention_has_its_limits():
    two = replace(model_of().spec, windows=(16, 32))
    model = replace(model_of(), spec=two)
    said = Support("abacus", options={}, widest_head=8, windows=1).problems(model, {}, {})
    assert said == [
        "abacus takes models with at most 1 sliding window, this one has [16, 32]",
        "abacus takes heads up to 8 wide, this model's are 16",
    ]


def test_names_of_several_layers_are_one():
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "lm_head"]
    assert summarize_names(names) == "model.layers.*.mlp.up_proj (2), lm_head"
