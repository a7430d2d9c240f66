"""LiteRT-LM makes the checkpoint's prompts out of the bundle that we write."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from artifacts import emitted
from chat_templates import CONSTRUCTS, FAMILIES, facts_with, template_of
from litert_artifacts import litert_job
from slmkit.backend.artifact import Artifact, SequenceState
from slmkit.backend.prompts import NotExecuted
from slmkit.parity.prompts import compare_with
from slmkit_litert.files import BUNDLE, MODEL
from slmkit_litert.litertlm import write_bundles
from slmkit_litert.prompts import LitertPrompts, open_litert_prompts, prompt_start
from tiers import some
from tiny_models import tiny_config, write_checkpoint
from tiny_tokenizers import begin_with_bos

pytest.importorskip("litert_lm", reason="litert-lm has no wheel for this machine")
QUICK = ("zephyr", "smollm", "gemma", "qwen-3", "cases")
MORE = "other templates"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The job and the .tflite of a tiny model; bundles of other tokenizers are packed with it."""
    folder = tmp_path_factory.mktemp("prompts")
    checkpoint = write_checkpoint(folder / "tiny", tiny_config("llama"))
    job = litert_job(checkpoint, folder, context_length=512)
    emitted(job, folder / "litert")
    return job, folder / "litert" / MODEL


def opened(model, tmp_path, template, bos=False):
    """The checkpoint's tokenizer, and LiteRT-LM on a bundle of it; ``bos``: it begins texts."""
    job, tflite = model
    tokenizer, facts = facts_with(tmp_path, template)
    if bos:
        begin_with_bos(tmp_path)
        tokenizer, facts = facts_with(tmp_path, template)
    write_bundles(replace(job, tokens=facts), tflite, tmp_path, [BUNDLE])
    return tokenizer, facts, LitertPrompts(tmp_path / BUNDLE)


@pytest.mark.parametrize("name", some([*FAMILIES, *CONSTRUCTS], *QUICK, why=MORE))
def test_every_family_s_prompts_are_equal(model, tmp_path, name):
    template = FAMILIES.get(name) or template_of(name)
    tokenizer, _, runtime = opened(model, tmp_path, template)
    found = compare_with("litert", runtime, tokenizer)
    assert found.verdict == "pass", found.notices
    assert "one turn" in found.equal


@pytest.mark.parametrize(
    ("family", "bos", "start"),
    [
        ("gemma", True, 1),  # both begin with bos: the runtime adds it, to raw text too
        ("gemma", False, None),  # the template alone: it stays in the template
        ("chatml", True, None),  # the tokenizer alone, which templates do not ask
        ("llama-2", True, None),  # a bos before every turn
        (None, True, 1),
        (None, False, None),
    ],
)
def test_the_start_token_is_there_if_template_and_tokenizer_begin_with_bos(
    tmp_path, family, bos, start
):
    facts_with(tmp_path, None)
    if bos:
        begin_with_bos(tmp_path)
    _, facts = facts_with(tmp_path, FAMILIES.get(family or ""))
    assert prompt_start(facts) == start


def test_a_start_token_is_the_first_of_a_prompt_and_comes_once(model, tmp_path):
    tokenizer, _, runtime = opened(model, tmp_path, FAMILIES["gemma"], bos=True)
    assert runtime.engine.bos_token_id == 1
    assert compare_with("litert", runtime, tokenizer).verdict == "pass"


def test_keys_of_a_message_keep_their_order(model, tmp_path):
    template = "{% for m in messages %}{{ m | tojson }}{% endfor %}"
    tokenizer, _, runtime = opened(model, tmp_path, template)
    found = compare_with("litert", runtime, tokenizer)
    assert {"one turn", "three turns"} <= set(found.equal)


def test_a_template_that_it_cannot_render_fails_the_build(model, tmp_path):
    template = "{% for m in messages %}{{ m.content.zfill(3) }}{% endfor %}"
    tokenizer, _, runtime = opened(model, tmp_path, template)
    found = compare_with("litert", runtime, tokenizer)
    assert found.verdict == "FAIL"
    assert "the prompt is empty" in found.failures[0]


def test_without_a_bundle_or_its_package_nothing_is_claimed(tmp_path, monkeypatch):
    state = SequenceState(256, (), 2, 16, ())
    bundles: list[str] = []
    artifact = Artifact("litert", "", "", (), (), (), state, {"bundles": bundles})
    with pytest.raises(NotExecuted, match=r"no model\.litertlm"):
        open_litert_prompts(tmp_path, artifact)
    monkeypatch.setitem(sys.modules, "litert_lm", None)
    bundles.append(BUNDLE)
    artifact = replace(artifact, facts={"bundles": bundles})
    with pytest.raises(NotExecuted, match="pip install litert-lm"):
        open_litert_prompts(tmp_path, artifact)
