"""Compare range methods and margins of 16-bit activations on one checkpoint.

python tests/benchmarks/hexagon_ranges.py CHECKPOINT [--tokens 4096]

Prints the SNR in dB of the QDQ graph against the float graph, both on ONNX Runtime's CPU, on tokens
that calibration does not read: held-out sentences for the sample model, else random ids.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.backend.interface import Job
from slmkit.backend.job import token_facts
from slmkit.backend.partition import Part
from slmkit.backend.static_runner import Window, slots
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit.inference.evaluate import HELD_OUT, read_examples
from slmkit.planning.calibration import calibration_texts
from slmkit.planning.codes import codes_of
from slmkit.planning.memory import matrix_schemes
from slmkit.recipe.recipe import load_recipe
from slmkit.snr import snr_db
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit_onnx.data import DataFile
from slmkit_onnx.hexagon.calibrate import calibration
from slmkit_onnx.hexagon.calibrate.calibration import Calibration
from slmkit_onnx.hexagon.calibrate.histogram import METHODS
from slmkit_onnx.hexagon.lowering.emit import (
    DATA,
    EMBED_DATA,
    FLOAT_EMBEDS,
    Form,
    embedding_graph,
    emit_graphs,
)
from slmkit_onnx.hexagon.lowering.encodings import asymmetric
from slmkit_onnx.sessions import cpu_session

MARGINS = (1.0, 1.3, 1.5)
CHUNK, TEXTS = 128, 12


def job_of(folder: Path, scratch: Path) -> Job:
    """The job of a build with the recipe int4."""
    checkpoint, recipe = open_checkpoint(folder), load_recipe("int4")
    codes = codes_of(checkpoint, matrix_schemes(checkpoint.model, recipe), Cache(scratch), Silent())
    return Job(
        "hexagon",
        checkpoint.model,
        codes,
        {},
        2 * CHUNK,
        CHUNK,
        token_facts(checkpoint.tokenizer, folder),
        calibration_texts(checkpoint, None),
    )


def test_tokens(folder: Path) -> list[np.ndarray]:
    """TEXTS sequences of CHUNK tokens that calibration does not read."""
    checkpoint = open_checkpoint(folder)
    if folder == SAMPLE_MODEL:
        texts = [example.prompt + example.answer for example in read_examples(HELD_OUT)[:TEXTS]]
        return [np.resize(checkpoint.tokenizer.encode(text), CHUNK) for text in texts]
    random = np.random.default_rng(9)
    return list(random.integers(0, checkpoint.spec.vocabulary, (TEXTS, CHUNK)))


class Trial:
    """A float graph with its logits, and QDQ graphs with given ranges."""

    def __init__(self, job: Job, folder: Path, runs: list[np.ndarray]) -> None:
        self.job, self.folder = job, folder
        self.data, self.table = DataFile(DATA), DataFile(EMBED_DATA)
        self.form = Form(Window(CHUNK, 0), [Part("model", 0, job.spec.layers)])
        self.emitted = emit_graphs(job, self.form, self.data)
        embed = embedding_graph(job, self.emitted.embedding_name, self.table, None)
        for file in (self.data, self.table):
            file.write(folder / file.name, lambda done, total: None)
        lookup = cpu_session(embed.model("embed").SerializeToString(), folder)
        self.embeds = [
            lookup.run([FLOAT_EMBEDS], {"input_ids": run[None].astype(np.int32)})[0] for run in runs
        ]
        self.expected = self.run(self.emitted, None)

    def quality(self, chosen: Calibration) -> float:
        """SNR in dB of the QDQ graph with these ranges."""
        form = Form(self.form.window, self.form.parts, chosen.ranges, chosen.mask_value)
        emitted = emit_graphs(self.job, form, self.data)
        self.data.write(self.folder / DATA, lambda done, total: None)
        got = self.run(emitted, asymmetric(chosen.ranges["input_embeds"]))
        return snr_db(np.concatenate(self.expected), np.concatenate(got))

    def run(self, emitted: Any, grid: Any) -> list[np.ndarray]:
        """Logits of every sequence."""
        model = emitted.graphs.graphs[0].model("trial").SerializeToString()
        session = cpu_session(model, self.folder)
        fixed = emitted.host.inputs(*slots(self.form.window, 0, CHUNK, slides=False))
        rounded = [grid.quantize(each) if grid else each for each in self.embeds]
        return [session.run(["logits"], {**fixed, "input_embeds": each})[0] for each in rounded]


def main() -> None:
    """Print the SNR by method and margin as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--length", type=int, default=128, help="tokens of a calibration sequence")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "out"
        folder.mkdir()
        job = job_of(options.checkpoint, Path(scratch) / "cache")
        trial = Trial(job, folder, test_tokens(options.checkpoint))
        files = trial.data, trial.table
        recorded = calibration.observe(
            job, options.length, options.tokens, True, *files, folder, lambda done, total: None
        )
        report = {
            f"{method} x {margin}": round(trial.quality(recorded.choose(method, margin)), 1)
            for method in METHODS
            for margin in MARGINS
        }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
