"""A build, its parity and its evaluation with an adapter merged into the weights."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from click.testing import CliRunner

from peft_adapters import write_adapter
from slmkit import api
from slmkit.cli.main import main
from slmkit.errors import BundleError, RefusedError, UsageError

ABOUT: dict[str, Any] = {"target": "android", "artifacts": ["ort"], "context": 64}


@pytest.fixture
def model(tiny):
    return tiny("llama")


def test_a_bundle_tells_of_its_adapter_and_is_proved_with_it_alone(model, tmp_path):
    """The adapter lies in the model's own folder, as some trainers leave it."""
    adapter = write_adapter(tmp_path / "mine", model)
    other = write_adapter(tmp_path / "other", model, seed=9)
    for path in adapter.iterdir():
        shutil.copy(path, model)
    bundle = api.build(model, **ABOUT, adapters=[model], out=tmp_path / "dist", cache=False)
    (facts,) = bundle.manifest.model.adapters
    assert (facts.name, facts.rank, facts.trained_on) == (model.name, 4, "some/base")
    assert any(f"with the adapter {model.name} (LoRA" in each for each in bundle.manifest.notices)
    bundle.recheck(model, adapters=[model], cache=False).check()
    for wrong in ([other, model], [model, other]):
        with pytest.raises(BundleError, match="adapters are not those"):
            bundle.recheck(model, adapters=wrong, cache=False)
    with pytest.raises(UsageError, match="cannot be merged into its codes"):
        api.evaluate_answers(bundle.path, adapters=[other])


def test_evaluation_tells_what_the_adapter_changes(model, tmp_path):
    adapter = write_adapter(tmp_path / "mine", model)
    about: dict[str, Any] = {"tokens": 64, "cache": False}
    same = api.evaluate_text(model, adapters=[adapter], **about)
    beside = api.evaluate_text(model, adapters=[adapter], model=model, **about)
    assert same.divergence.kl == 0 < beside.divergence.kl


def test_commands_take_it(model, tmp_path):
    adapter = write_adapter(tmp_path / "mine", model)
    words = ["--adapter", str(adapter), "--json"]
    for first in (["inspect", str(model)], ["plan", "--target", "android", "--model", str(model)]):
        done = CliRunner().invoke(main, [*first, *words])
        assert done.exit_code == 0, done.output
        assert "with the adapter mine (LoRA" in json.loads(done.output)["notices"][0]
    (adapter / "adapter_model.safetensors").unlink()
    done = CliRunner().invoke(main, ["inspect", str(model), *words])
    assert done.exit_code == 1
    assert "has no adapter_model.safetensors" in json.loads(done.output)["error"]["message"]


def test_an_artifact_whose_runtime_takes_none_is_refused_with_the_reason(model, tmp_path):
    adapter = write_adapter(tmp_path / "mine", model)
    about = {**ABOUT, "target": "ios", "artifacts": ["coreml"]}
    bundle = api.build(model, **about, out=tmp_path / "dist", cache=False).path
    with pytest.raises(RefusedError, match="no adapter beside coreml: Core ML loads no") as caught:
        api.add_adapter(bundle, adapter, tmp_path / "out", model=model)
    assert "slmkit build --adapter" in caught.value.hint
    assert not (tmp_path / "out").exists()
