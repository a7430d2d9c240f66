"""Chat templates in MLC's form: equal to the template, or said not to be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlc_artifacts import mlc_job
from slmkit.backend.interface import TokenFacts
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit_mlc.chat_config import chat_config, tokenizer_info
from slmkit_mlc.conversation import DIFFERS, EXACT, NO_SYSTEM, conversation, render_prompt
from slmkit_mlc.lowering.definition import definition_for
from tiny_tokenizers import KINDS

HOME = Path(__file__).resolve().parents[3] / "toolkit" / "slmkit" / "sample_model"
DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\n"
    "You are helpful.<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_OPENING = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
COUNTS = (
    "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def facts_of(template: str | None) -> TokenFacts:
    tokenizer = Tokenizer(HOME)
    tokenizer.template = template
    chat = tokenizer.chat if template else None
    return TokenFacts(None, (2,), None, (), template, chat)


@pytest.mark.parametrize(
    ("template", "likeness"),
    [
        (Tokenizer(HOME).template, NO_SYSTEM),
        (DEFAULT_SYSTEM, EXACT),
        (NO_OPENING, NO_SYSTEM),
        (REFUSES, NO_SYSTEM),
        (COUNTS, DIFFERS),
        (None, EXACT),
    ],
    ids=["home", "default system", "no opening", "refuses a system", "counts", "none"],
)
def test_how_well_mlc_s_form_says_the_same(template, likeness):
    form, found = conversation(facts_of(template))
    assert found == likeness
    assert form["stop_token_ids"] == [2]
    assert len(form["seps"]) in (1, 2)


def test_a_template_s_own_system_text_is_kept_and_replaced():
    form, _ = conversation(facts_of(DEFAULT_SYSTEM))
    assert form["system_message"] == "You are helpful."
    assert form["system_template"] == "<|im_start|>system\n{system_message}<|im_end|>\n"
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    facts = facts_of(DEFAULT_SYSTEM)
    assert facts.chat is not None
    assert render_prompt(form, messages) == facts.chat(messages, True)


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("byte-level", "byte_level"),
        ("byte-fallback", "byte_fallback"),
        ("unigram", "byte_fallback"),
    ],
)
def test_how_tokens_become_bytes_is_read_from_tokenizer_json(tmp_path, kind, method):
    KINDS[kind](tmp_path)
    tokenizer = Tokenizer(tmp_path)
    files = tuple(sorted(tmp_path.iterdir()))
    facts = TokenFacts(None, (), None, files, tokenizer.template, tokenizer.chat)
    assert conversation(facts)[1] == NO_SYSTEM  # the tests' template has no turn before the first
    assert tokenizer_info(facts)["token_postproc_method"] == method


def test_the_decoder_of_tokenizer_json_decides(tmp_path):
    values = {
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Strip"}]},
        "normalizer": {"type": "Prepend", "prepend": "_"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    facts = TokenFacts(None, (), None, (tmp_path / "tokenizer.json",), None)
    assert tokenizer_info(facts) == {
        "token_postproc_method": "byte_fallback",
        "prepend_space_in_encode": True,
        "strip_space_in_decode": True,
    }


def test_the_author_s_settings_are_mlc_s(tiny, tmp_path):
    folder = tiny("llama")
    silent = chat_values(folder, tmp_path / "silent")
    assert (silent["temperature"], silent["top_p"], silent["repetition_penalty"]) == (0, 1, 1)
    said = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "repetition_penalty": 1.3}
    (folder / "generation_config.json").write_text(json.dumps(said))
    found = chat_values(folder, tmp_path / "said")
    assert {key: found[key] for key in said if key != "do_sample"}.items() <= said.items()
    tokens = Tokenizer(folder).size
    assert found["active_vocab_size"] == tokens < found["vocab_size"] == 320


def test_a_date_is_not_frozen_into_mlc_s_form():
    facts = replace(facts_of(DEFAULT_SYSTEM), dated=True)
    assert conversation(facts)[1] == DIFFERS


def chat_values(folder, scratch):
    scratch.mkdir()
    job = mlc_job(folder, scratch)
    return chat_config(job, definition_for(job), "q4f16_1")[0]
