"""Make a checkpoint of random bfloat16 weights with the shape of a real config.json.

python tests/benchmarks/random_checkpoint.py CONFIG FOLDER
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.checkpoint.safetensors import SafetensorsWriter, row_blocks
from slmkit.interpreters.recorder import Weight, record
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.models.spec import Spec
from tiny_models import initial_values, stored_layout
from tiny_tokenizers import write_tokenizer

BLOCK = 1 << 22  # elements generated at a time
# Constants that some published configurations omit; no size depends on them.
OMITTED: dict[str, dict[str, Any]] = {
    "granitemoe": {
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.015625,
        "residual_multiplier": 0.22,
        "logits_scaling": 6.0,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
    },
    "granite": {"max_position_embeddings": 4096},
}


def make(config: Path, folder: Path) -> None:
    """Write a checkpoint: normal weights of deviation 0.02, norms around 1, a tiny tokenizer.

    0.02 is the initialization of most models.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = json.loads(config.read_text(encoding="utf-8"))
    values |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # of the tiny tokenizer
    (folder / "config.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    spec = read_spec(Config(values, config.name))
    weights = record(spec).weights
    random = np.random.default_rng(0)
    layout, places = stored_layout(spec, weights, "BF16")
    with SafetensorsWriter(folder / "model.safetensors", layout, {"format": "pt"}) as writer:
        for name, weight in weights.items():
            (tensor, number), shape = places[name], weight.stored or weight.shape
            if number is not None:
                block = _halves(_initial(spec, weight, random, (1, *shape)))
                writer.put(tensor, block, number)
                continue
            for rows in row_blocks(shape[0], math.prod(shape[1:]), BLOCK):
                part = (rows.stop - rows.start, *shape[1:])
                writer.put(tensor, _halves(_initial(spec, weight, random, part)), rows.start)
    write_tokenizer(folder)


def completed(config: Path, folder: Path, **changes: Any) -> Path:
    """Copy a config.json to a new folder, with omitted constants and ``changes``."""
    values = json.loads(config.read_text(encoding="utf-8"))
    values = {**OMITTED.get(values["model_type"], {}), **values, **changes}
    folder.mkdir(parents=True)
    path = folder / "config.json"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return path


def _initial(
    spec: Spec, weight: Weight, random: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
    values = random.standard_normal(shape, np.float32)
    if weight.name.endswith((".A_log", ".D", ".dt_bias", ".dt_proj")) and len(weight.shape) == 1:
        return _mamba_initial(weight, random, shape)
    if len(weight.shape) == 2 or weight.kind == "bias":
        return values * np.float32(0.02)
    return initial_values(spec, weight, values).astype(np.float32)


def _mamba_initial(
    weight: Weight, random: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
    """Decay rates 1 to N, steps 0.001 to 0.1; source: transformers' MambaMixer."""
    if weight.name.endswith(".D"):
        return np.ones(shape, np.float32)
    if weight.name.endswith(".A_log"):
        return np.broadcast_to(np.log(1 + np.arange(shape[-1])), shape).astype(np.float32)
    step = np.exp(random.uniform(np.log(0.001), np.log(0.1), shape))
    return (step + np.log(-np.expm1(-step))).astype(np.float32)  # the inverse of softplus


def _halves(values: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
