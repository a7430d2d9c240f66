"""What the author says about generation, and where an answer ends."""

from __future__ import annotations

import json

import pytest
import tokenizers

from checkpoint_edits import refuse
from slmkit.backend.job import token_facts
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.checkpoint.generation import TOP_K, Generation, read_generation
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.inference.generate import sampler_of
from slmkit.inference.load import load
from tiny_tokenizers import TEMPLATE, write_tokenizer

QWEN = {
    "do_sample": True,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.3,
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def say(folder, **values):
    (folder / "generation_config.json").write_text(json.dumps(values))


def add_chatml(folder, template=CHATML):
    """ChatML's tokens and template over a tokenizer whose eos is another one."""
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    library.save(str(folder / "tokenizer.json"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template}))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, Generation()),
        ({"eos_token_id": 2}, Generation()),
        (QWEN, Generation(True, 0.7, 0.8, 20, 1.3, True)),
        ({"do_sample": True, "top_p": 0.9}, Generation(True, 1.0, 0.9, TOP_K, 1.0, True)),
        ({"do_sample": True, "top_k": 0}, Generation(True, 1.0, 1.0, 0, 1.0, True)),
        # As in transformers: without do_sample the sampler's settings do nothing.
        ({"temperature": 0.6, "top_p": 0.9}, Generation(by_author=True)),
        ({**QWEN, "do_sample": False}, Generation(repetition_penalty=1.3, by_author=True)),
        ({"do_sample": True, "temperature": 0}, Generation(by_author=True)),
        ({"do_sample": True, "temperature": None}, Generation(True, top_k=TOP_K, by_author=True)),
    ],
)
def test_the_settings_are_those_of_the_file(tmp_path, said, expected):
    if said is not None:
        say(tmp_path, **said)
    assert read_generation(tmp_path).settings == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [("temperature", "hot"), ("top_p", 1.5), ("top_k", -1), ("repetition_penalty", 0)],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(tiny, key, value):
    folder = tiny("llama")
    say(folder, **{**QWEN, key: value})
    refuse(folder, f"generation_config.json: {key} is")


def test_a_session_follows_the_author_unless_told_otherwise(tiny):
    folder = tiny("llama")
    tokenizer = open_checkpoint(folder).tokenizer
    assert sampler_of(tokenizer).temperature == 0
    say(folder, **QWEN)
    tokenizer = open_checkpoint(folder).tokenizer
    found = sampler_of(tokenizer, 5)
    assert (found.temperature, found.top_p, found.top_k) == (0.7, 0.8, 20)
    assert (found.repetition_penalty, found.seed) == (1.3, 5)
    told = sampler_of(tokenizer, temperature=0.0, top_p=0.5, top_k=3, repetition_penalty=1.0)
    assert (told.temperature, told.top_p, told.top_k, told.repetition_penalty) == (0, 0.5, 3, 1)
    session = load(folder)
    answers = {session.generate("hi", max_tokens=4, seed=seed, raw=True) for seed in range(5)}
    assert len(answers) > 1
    greedy = {
        session.generate("hi", max_tokens=4, seed=seed, raw=True, temperature=0)
        for seed in range(3)
    }
    assert len(greedy) == 1


def test_the_author_s_settings_reach_a_backend(tiny):
    folder = tiny("llama")
    say(folder, **QWEN)
    facts = token_facts(open_checkpoint(folder).tokenizer, folder)
    assert facts.generation == Generation(True, 0.7, 0.8, 20, 1.3, True)
    assert facts.active == Tokenizer(folder).size < 320


def test_a_turn_end_that_no_file_names_is_a_stop_id_with_a_notice(tiny):
    folder = tiny("llama")
    add_chatml(folder)
    end = Tokenizer(folder).library.token_to_id("<|im_end|>")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tokenizer.stop_ids == (2, end)
    (notice,) = checkpoint.notices
    assert f"with '<|im_end|>' (id {end}), which is no stop id of the files (2)" in notice
    say(folder, eos_token_id=[end, 2])
    checkpoint = open_checkpoint(folder)
    assert checkpoint.tokenizer.stop_ids == (end, 2)
    assert not checkpoint.notices


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATE,  # writes nothing after an answer
        "{% for m in messages %}{{ m.content }}\n\n{% endfor %}",
        "{% for m in messages %}{{ m.content }} [/INST] {% endfor %}",  # plain text
        "{{ messages[0].content }}",  # leaves answers out
        "{{ raise_exception('one message only') if messages | length > 1 }}",
    ],
)
def test_a_template_without_a_turn_end_of_its_own_adds_none(tmp_path, template):
    write_tokenizer(tmp_path)
    add_chatml(tmp_path, template)
    assert Tokenizer(tmp_path).stop_ids == (2,)


def test_another_template_has_turn_ends_of_its_own(tmp_path):
    write_tokenizer(tmp_path)
    add_chatml(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.stop_ids == (2, tokenizer.library.token_to_id("<|im_end|>"))
    assert tokenizer.with_template(TEMPLATE).stop_ids == (2,)


def test_the_sample_model_names_its_turn_end():
    checkpoint = open_checkpoint(SAMPLE_MODEL)
    assert checkpoint.tokenizer.stop_ids == (2,)
    assert not checkpoint.notices
