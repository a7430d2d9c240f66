"""Microsoft's onnxruntime-genai loads and runs the artifact unchanged, to the same tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime_genai as genai
import pytest
import yaml

from genai_tokens import genai_tokens
from slmkit.checkpoint.folder import SAMPLE_MODEL
from slmkit.inference.load import load
from slmkit.interpreters.reference import logits
from slmkit.recipe.recipe import SHIPPED
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from tiers import ROWS, SAYS_MOST, some
from tiny_models import TINY, ort_request

PROMPT = "turn off the kitchen lights"
TOKENS = 40


def our_tokens(folder: Path, ids: list[int], count: int, mode: str | None = None) -> list[int]:
    runner = load(folder, mode=mode).runner
    tokens = []
    logits = runner.feed(np.array(ids))
    for _ in range(count):
        tokens.append(int(logits[-1].argmax()))
        logits = runner.feed(np.array(tokens[-1:]))
    return tokens


@pytest.mark.parametrize("architecture", some(TINY, "qwen2", SAYS_MOST, why=ROWS))
def test_genai_our_runner_and_the_reference_give_the_same_tokens(tiny, tmp_path, architecture):
    recipe = yaml.safe_load((SHIPPED / "int4.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": "exact", "artifacts": {"ort": {"accuracy_level": 0}}}
    (tmp_path / "exact.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    request = ort_request(
        tiny(architecture),
        str(tmp_path / "exact.yaml"),
        tmp_path / "out",
        cache=tmp_path / "cache",
    )
    folder = build(request, Silent()).folder
    loaded = load(folder)
    ids = loaded.tokenizer.encode(PROMPT)
    ours = our_tokens(folder, ids, TOKENS)
    stop = [at for at, token in enumerate(ours) if token in loaded.tokenizer.stop_ids]
    expected = ours[: stop[0] + 1] if stop else ours  # genai ends there
    assert genai_tokens(folder, ids, TOKENS) == expected
    context = loaded.runner.context_length
    assert ours == reference_tokens(tmp_path / "cache", request, context, ids, ours)


def reference_tokens(cache, request, context, ids, followed):
    """The reference's choice after each prefix of ``followed``, in one pass, on the codes."""
    from slmkit.checkpoint.folder import open_checkpoint
    from slmkit.quant.codes import CodesFile

    codes = CodesFile(next(cache.glob("codes-*")) / "codes.safetensors")
    spec = open_checkpoint(request.model).at_context(context).spec
    answers = logits(codes, spec, [np.array([*ids, *followed])])[0]
    return answers[len(ids) - 1 : -1].argmax(axis=1).tolist()


def test_genai_encodes_and_answers_as_we_do(tmp_path):
    folder = build(ort_request(SAMPLE_MODEL, "int4", tmp_path), Silent()).folder
    loaded = load(folder)
    model = genai.Model(str(folder / "ort"))
    text = loaded.tokenizer.chat([{"role": "user", "content": "wake me at 6:45 tomorrow"}])
    ids = loaded.tokenizer.encode(text, special=False)
    assert genai.Tokenizer(model).encode(text).tolist() == ids
    ours = our_tokens(folder, ids, 24)
    end = next(at for at, token in enumerate(ours) if token in loaded.tokenizer.stop_ids)
    assert genai_tokens(folder, ids, 24) == ours[: end + 1]
    assert loaded.tokenizer.decode(ours[:end]) == (
        '{"intent":"alarm","day":"tomorrow","time":"06:45"}'
    )
