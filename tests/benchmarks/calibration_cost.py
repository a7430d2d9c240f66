"""Measure what calibration costs: the first layers of a real shape, beside the cores' full speed.

python tests/benchmarks/calibration_cost.py CONFIG LAYERS [--tokens 32396] [--recipe int4]

CONFIG is a real config.json; a checkpoint of its first LAYERS layers is made of random weights, and
its codes on random tokens, in texts of 256. The limit is a product of two matrices of 2,048 on all
cores, measured just before. The whole model is the layers' share, multiplied.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fixtures")]

from random_checkpoint import completed, make  # noqa: E402

from slmkit.checkpoint.folder import open_checkpoint  # noqa: E402
from slmkit.planning.codes import codes_of  # noqa: E402
from slmkit.planning.memory import matrix_schemes  # noqa: E402
from slmkit.planning.prepare import prepare  # noqa: E402
from slmkit.recipe.recipe import load_recipe  # noqa: E402
from slmkit.system.cache import Cache  # noqa: E402
from slmkit.system.process_memory import peak_memory  # noqa: E402
from slmkit.system.progress import Silent  # noqa: E402

WINDOW = 256  # tokens of a text
SIZE = 2048  # of the matrices whose product is the limit
ONCE = ("quantize",)  # stages of matrices that do not belong to a layer


class Stages(Silent):
    """Wall and CPU seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        self.began: tuple[str, float, float] | None = None

    def stage(self, label: str, total: int) -> None:
        """End the stage before, if there is one."""
        now, cpu = time.perf_counter(), time.process_time()
        if self.began:
            name, start, used = self.began
            self.seconds[name] = now - start, cpu - used
        self.began = label, now, cpu


def full_speed() -> float:
    """Billions of float32 multiplications and additions a second, of all cores together."""
    a, b = np.random.default_rng(0).standard_normal((2, SIZE, SIZE)).astype(np.float32)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        rates.append(SIZE**3 / (time.perf_counter() - start) / 1e9)
    return max(rates)


def first_layers(config: Path, layers: int, folder: Path) -> int:
    """Write a checkpoint of the first layers; how many the whole has."""
    values = json.loads(config.read_text(encoding="utf-8"))
    whole: int = values["num_hidden_layers"]
    values["num_hidden_layers"] = layers
    if isinstance(values.get("layer_types"), list):
        values["layer_types"] = values["layer_types"][:layers]
    shorter = folder / config.name
    shorter.write_text(json.dumps(values), encoding="utf-8")
    make(completed(shorter, folder / "config"), folder / "model")
    return whole


def main() -> None:
    """Print seconds by stage, the peak of memory, and the whole model's time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("layers", type=int)
    parser.add_argument("--tokens", type=int, default=32396)
    parser.add_argument("--recipe", default="int4")
    asked = parser.parse_args()
    recipe, stages = load_recipe(asked.recipe), Stages()
    with TemporaryDirectory() as work:
        folder = Path(work)
        whole = first_layers(asked.config, asked.layers, folder)
        checkpoint = open_checkpoint(folder / "model").at_context(WINDOW)
        random = np.random.default_rng(0)
        vocabulary = checkpoint.spec.vocabulary
        texts = [random.integers(0, vocabulary, WINDOW) for _ in range(asked.tokens // WINDOW)]
        cache, schemes = Cache(folder / "cache"), matrix_schemes(checkpoint.model, recipe, None)
        print(f"{full_speed():.0f} billion multiplications and additions a second")  # noqa: T201
        prepared = prepare(checkpoint, recipe, texts, cache, stages)
        codes_of(checkpoint, schemes, cache, stages, prepared)
        stages.stage("end", 0)
    total = 0.0
    for name, (seconds, used) in stages.seconds.items():
        print(f"{name}: {seconds:.1f} s, {used:.1f} CPU s")  # noqa: T201
        total += seconds * (1 if name in ONCE else whole / asked.layers)
    peak = (peak_memory() or 0) / 1e9
    print(f"{asked.layers} of {whole} layers, {peak:.2f} GB; whole: {total / 60:.1f} min")  # noqa: T201


if __name__ == "__main__":
    main()
