"""Hugging Face transformers is the outside truth: it makes the checkpoints and the logits."""

from __future__ import annotations

import gc
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optional_data import STORIES, TEMPLATES, TOKENIZERS, files_of, needs, path_of
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError
from slmkit.interpreters import reference
from tiny_models import TINY, tiny_config
from tiny_tokenizers import KINDS, write_tokenizer

torch = pytest.importorskip("torch", reason="needs the extra crosscheck")
transformers = pytest.importorskip("transformers", reason="needs the extra crosscheck")

pytestmark = pytest.mark.crosscheck
RELATIVE = 1e-4  # of the largest logit, for float32: what the project promises
TOKENS = 150  # past every tiny window, and past llama3's original context of 64


@pytest.fixture(autouse=True)
def quiet_libraries():
    """transformers and torch warn about themselves; their open files close with the models."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


def make(folder, architecture, dtype=torch.float32):
    """transformers itself makes the model and writes the checkpoint; its logits, (T, V)."""
    config = transformers.AutoConfig.for_model(**tiny_config(architecture))
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 1 and "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(noise * (0.1 if parameter.ndim == 1 else 0.15))
    model.to(dtype).save_pretrained(folder)
    write_tokenizer(folder)
    return model.to(torch.float32)


def their_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids.tolist()])).logits[0].numpy()


def assert_close(ours, theirs):
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error < RELATIVE, f"relative error {error:.2g}"


@pytest.mark.parametrize("architecture", TINY)
def test_logits_agree_in_prefill_chunks_and_decode(tmp_path, architecture):
    model = make(tmp_path, architecture)
    checkpoint = open_checkpoint(tmp_path).at_context(TOKENS)
    ids = np.random.default_rng(0).integers(0, 320, TOKENS)
    theirs = their_logits(model, ids)
    assert_close(reference.logits(checkpoint.shards, checkpoint.spec, [ids])[0], theirs)
    cache, parts = reference.Cache(), []
    for chunk in np.split(ids, [50, 90, *range(100, TOKENS)]):
        parts += reference.logits(checkpoint.shards, checkpoint.spec, [chunk], [cache])
    assert_close(np.concatenate(parts), theirs)


def test_a_short_context_of_a_longrope_model_has_its_short_rope(tmp_path):
    model = make(tmp_path, "phi3-long")
    checkpoint = open_checkpoint(tmp_path)
    ids = np.arange(60)
    assert checkpoint.at_context(64).spec == checkpoint.spec
    ours = reference.logits(checkpoint.shards, checkpoint.at_context(64).spec, [ids])[0]
    assert_close(ours, their_logits(model, ids))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_are_read_as_transformers_reads_them(tmp_path, dtype):
    make(tmp_path, "qwen2", getattr(torch, dtype))
    # Loaded anew: converting a model back and forth would round its rope frequencies too.
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    checkpoint = open_checkpoint(tmp_path)
    ids = np.arange(40)
    ours = reference.logits(checkpoint.shards, checkpoint.spec, [ids])[0]
    assert_close(ours, their_logits(model.eval(), ids))


def test_sharded_checkpoints_are_read_whole(tmp_path):
    model = make(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    checkpoint = open_checkpoint(tmp_path)
    ids = np.arange(30)
    ours = reference.logits(checkpoint.shards, checkpoint.spec, [ids])[0]
    assert_close(ours, their_logits(model, ids))


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        (SAMPLE_MODEL, "turn off the kitchen lights"),
        pytest.param(
            path_of(STORIES), "Once upon a time, there was a big red ball.", marks=needs(STORIES)
        ),
    ],
    ids=["home", "stories260K"],
)
def test_a_trained_model_agrees(folder, text):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    checkpoint = open_checkpoint(folder)
    ids = np.array(checkpoint.tokenizer.encode(text))
    ours = reference.logits(checkpoint.shards, checkpoint.spec, [ids])[0]
    assert_close(ours, their_logits(model, ids))


# Forms that the families' own templates have, in words of ours: chatml (Qwen, SmolLM2: tools as
# JSON, calls), llama-3 (a default for tools, an indented schema), gemma (turns, another name for
# the assistant), mistral (a state over the loop), granite (a macro, text cut at a mark). The public
# ones have licenses of their own and are not copied: they are taken from the optional data.
FORMS = sorted((Path(__file__).parent / "templates").glob("*.jinja"))
PUBLIC = [pytest.param(path, marks=needs(TEMPLATES)) for path in files_of(TEMPLATES, "*.jinja")]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "set_lights",
            "description": "Lights of a room: <on> & 'off'",
            "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
        },
    }
]
CALL = {"function": {"name": "set_lights", "arguments": {"room": "küche"}}}
SYSTEM = {"role": "system", "content": "You are brief."}
CONVERSATIONS = [
    [{"role": "user", "content": "What's 2 + 2? ünïcödé"}],
    [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye\n"},
    ],
]


TALKS: dict[str, list[dict[str, Any]]] = {
    "one": CONVERSATIONS[0],
    "turns": CONVERSATIONS[1],
    "system": [SYSTEM, *CONVERSATIONS[1]],
    "call": [
        *CONVERSATIONS[0],
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "done"},
    ],
}


@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("form", [*FORMS, *PUBLIC], ids=lambda path: path.stem)
def test_every_form_of_template_renders_alike_or_is_refused_alike(tmp_path, form, talk, tools):
    write_tokenizer(tmp_path)
    shutil.copyfile(form, tmp_path / "chat_template.jinja")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    try:
        expected = theirs.apply_chat_template(
            TALKS[talk], tools=tools, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # the template's own refusal
        with pytest.raises(CheckpointError, match=str(error)):
            Tokenizer(tmp_path).chat(TALKS[talk], tools=tools)
        return
    assert Tokenizer(tmp_path).chat(TALKS[talk], tools=tools) == expected


@pytest.mark.parametrize("kind", [*KINDS, pytest.param("phi3", marks=needs(TOKENIZERS["phi3"]))])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=["one", "three"])
@pytest.mark.parametrize("prompt", [True, False])
def test_tokens_of_a_conversation_are_alike(tmp_path, kind, messages, prompt):
    folder = tmp_path if kind in KINDS else path_of(TOKENIZERS[kind])
    if kind in KINDS:
        KINDS[kind](tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    ours = Tokenizer(folder)
    assert ours.template is not None
    text = ours.chat(messages, add_generation_prompt=prompt)
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert text == expected
    assert ours.encode(text, special=False) == theirs.encode(text, add_special_tokens=False)
