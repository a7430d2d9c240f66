"""Make a checkpoint of random bfloat16 weights with the shape of a real config.json.

python tests/benchmarks/random_checkpoint.py CONFIG FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from slmkit.checkpoint.safetensors import SafetensorsWriter, row_blocks
from slmkit.models.config import Config
from slmkit.models.registry import read_spec
from slmkit.record import record
from tiny_models import write_tokenizer

BLOCK = 1 << 22  # numbers made at a time


def make(config: Path, folder: Path) -> None:
    """Normal weights of 0.02 (as models are initialized), norms around 1; a tiny tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    values = json.loads(config.read_text(encoding="utf-8"))
    values |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # of the tiny tokenizer
    (folder / "config.json").write_text(json.dumps(values, indent=1), encoding="utf-8")
    weights = record(read_spec(Config(values, config.name))).weights
    random = np.random.default_rng(0)
    layout = {name: ("BF16", weight.shape) for name, weight in weights.items()}
    with SafetensorsWriter(folder / "model.safetensors", layout, {"format": "pt"}) as writer:
        for name, weight in weights.items():
            shape = weight.shape if len(weight.shape) == 2 else (*weight.shape, 1)
            for rows in row_blocks(*shape, BLOCK):
                block = random.standard_normal((rows.stop - rows.start, *shape[1:]), np.float32)
                block = 1 + block / 10 if weight.kind == "norm" else block * np.float32(0.02)
                halves = (block.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
                writer.put(name, halves.reshape(-1, *weight.shape[1:]), rows.start)
    write_tokenizer(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
