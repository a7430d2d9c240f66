"""Each key of config.json left out or null: as transformers computes it, or refused by either.

A key that we read as something else in silence gives other logits than transformers.
"""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import SlmkitError
from slmkit.interpreters import reference
from tiny_models import TINY, tiny_config, write_checkpoint

torch = pytest.importorskip("torch", reason="needs the extra crosscheck")
transformers = pytest.importorskip("transformers", reason="needs the extra crosscheck")

pytestmark = pytest.mark.crosscheck
RELATIVE = 1e-4  # of the largest logit, for float32
IDS = np.random.default_rng(0).integers(3, 290, 100)  # past every tiny window
# Keys without which transformers computes otherwise, and we refuse nothing on purpose.
NOT_ARITHMETIC = ("architectures", "bos_token_id", "eos_token_id", "pad_token_id")


def variants(config):
    """(what is changed, config.json) for each key left out, and null."""
    for key in config:
        if key in NOT_ARITHMETIC:
            continue
        yield f"without {key}", {name: each for name, each in config.items() if name != key}
        if config[key] is not None:
            yield f"{key} null", {**config, key: None}


def theirs(folder):
    """transformers' logits; None where it refuses the files or misses weights."""
    try:
        model, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
        )
        if found["missing_keys"] or found.get("mismatched_keys"):
            return None
        with torch.no_grad():
            logits: np.ndarray = model.eval()(torch.tensor(IDS)[None]).logits[0].numpy()
    except Exception:
        return None
    return logits


@pytest.mark.parametrize("architecture", TINY)
def test_no_key_is_missed_in_silence(tmp_path, architecture):
    transformers.logging.set_verbosity_error()
    folder = write_checkpoint(tmp_path, tiny_config(architecture))
    config = json.loads((folder / "config.json").read_text())
    differ = []
    for what, changed in variants(config):
        (folder / "config.json").write_text(json.dumps(changed))
        try:
            checkpoint = open_checkpoint(folder).at_context(len(IDS))
        except SlmkitError:
            continue
        ours = reference.logits(checkpoint.shards, checkpoint.spec, [IDS])[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs(folder)
        if expected is None:
            continue
        error = np.abs(ours - expected).max() / np.abs(expected).max()
        if not error < RELATIVE:
            differ.append(f"{what}: {error:.2g}")
    assert not differ
