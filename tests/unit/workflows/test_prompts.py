"""Prompts in a build: proved for each artifact, chosen by name, and the same on every day."""

from __future__ import annotations

import importlib.util
import json
from datetime import datetime, timedelta

import pytest

from chat_templates import with_template
from folder_bytes import contents, timeless
from slmkit.bundle.manifest import read_manifest
from slmkit.checkpoint import tokenizer as tokenizers
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError
from slmkit.inference.load import load
from slmkit.planning.plan import make_plan
from slmkit.system.progress import Silent
from slmkit.workflows.build import FailedParity, build
from slmkit.workflows.recheck import recheck
from tiers import WHOLE
from tiny_models import ort_request

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = "Today is {{ strftime_now('%d %B %Y') }}.\n" + CHATML
NAMED = [{"name": "chat", "template": CHATML}, {"name": "tool_use", "template": "T" + CHATML}]
# Imported first by every worker that finds it on its path.
MOVED_CLOCK = """
import datetime, os, sys

class Moved(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=int(os.environ["MOVED_DAYS"]))

datetime.datetime = Moved
sys.modules["onnxruntime_genai"] = None  # it asks the system for the date
"""
genai_only = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None, reason="needs onnxruntime-genai"
)


def build_on(days, model, out, monkeypatch):
    """The files of a bundle that was built that many days later, by every process of the build."""

    class Moved(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=days)

    monkeypatch.setenv("MOVED_DAYS", str(days))
    monkeypatch.setattr(tokenizers, "datetime", Moved)
    return timeless(build(ort_request(model, "int4", out), Silent()).folder)


@pytest.mark.full(WHOLE)
def test_builds_of_two_days_are_byte_identical(tiny, tmp_path, monkeypatch):
    model = tiny("llama")
    with_template(model, DATED)
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(MOVED_CLOCK)
    monkeypatch.syspath_prepend(str(tmp_path / "clock"))
    first = build_on(0, model, tmp_path / "first", monkeypatch)
    later = build_on(400, model, tmp_path / "later", monkeypatch)
    assert "2026" not in first["ort/chat_template.jinja"].decode()
    assert first == later
    prompts = json.loads(first["manifest.json"])["prompts"]
    assert [each["executed"] for each in prompts] == [False]


@genai_only
def test_a_build_proves_prompts_and_a_recheck_does_again(tiny, tmp_path):
    model = tiny("llama")
    with_template(model, DATED)
    folder = build(ort_request(model, "int4", tmp_path / "out"), Silent()).folder
    (found,) = read_manifest(folder).prompts
    assert found.verdict == "pass"
    assert "system and user" in found.equal
    assert found.runtime.startswith("onnxruntime-genai")
    assert recheck(folder, None, None, Silent()).prompts == (found,)


@pytest.mark.full(WHOLE)
@genai_only
def test_a_runtime_with_another_prompt_fails_the_build(tiny, tmp_path):
    model = tiny("llama")
    with_template(model, CHATML.replace("m.content", "m.content.zfill(40)"))
    with pytest.raises(FailedParity, match="makes another prompt of a user's message") as failed:
        build(ort_request(model, "int4", tmp_path / "out"), Silent())
    assert "simpler Jinja" in failed.value.hint
    assert [each.verdict for each in failed.value.prompts] == ["FAIL"]
    assert not list((tmp_path / "out").glob("*/manifest.json"))


@pytest.mark.full(WHOLE)
def test_a_template_is_chosen_by_name_and_stays_chosen(tiny, tmp_path):
    model = tiny("llama")
    with_template(model, NAMED)
    request = ort_request(model, "int4", tmp_path / "out", chat_template="tool_use")
    folder = build(request, Silent()).folder
    assert read_manifest(folder).chat_template == "tool_use"
    assert load(folder).tokenizer.template == NAMED[1]["template"]
    assert contents(folder / "tokenizer") == {
        name: (model / name).read_bytes() for name in contents(folder / "tokenizer")
    }
    assert Tokenizer(folder / "ort").chat([]) == "T<|im_start|>assistant\n"


def test_a_list_without_a_default_is_refused_before_anything_is_built(tiny, tmp_path):
    model = tiny("llama")
    with_template(model, NAMED)
    with pytest.raises(CheckpointError, match="none is the default: chat, tool_use"):
        make_plan(ort_request(model, "int4", tmp_path / "out"))
