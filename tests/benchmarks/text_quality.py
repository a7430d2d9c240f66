"""Every artifact of a bundle on held-out text: dB, KL and top-1 against the codes.

python tests/benchmarks/text_quality.py BUNDLE MODEL [--tokens 1000] [--artifacts ort,hexagon,...]

MODEL is the checkpoint that the bundle was built from. The text is the built-in held-out corpus,
which no calibration reads: beginnings of evenly chosen conversations and texts, each through the
chat template if there is one. Modes that run a prompt or two only (emulators) are left out. Of a
large vocabulary 4096 columns are compared: KL is a lower bound then. The lines "codes" are the
codes against the float weights.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from slmkit.activations.observe import calibration_runs, load_runs
from slmkit.bundle.manifest import BundledArtifact, read_manifest
from slmkit.checkpoint.folder import Checkpoint, open_checkpoint
from slmkit.cli.parity_tables import parity_note, parity_table
from slmkit.parity.compare import Answers, Proof, answers, float_outputs, quantization_cost
from slmkit.parity.golden import Prompt
from slmkit.parity.metrics import Comparison
from slmkit.planning.calibration import BUILT_IN, calibration_texts
from slmkit.planning.codes import codes_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.prepare import prepare
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit.workflows.codes import CALIBRATION

HELD_OUT = BUILT_IN.with_name("held_out.jsonl")
LONGEST = 128  # tokens of one text


def held_out_prompts(checkpoint: Checkpoint, tokens: int) -> list[Prompt]:
    """About ``tokens`` tokens of held-out text."""
    texts = calibration_texts(checkpoint, HELD_OUT)
    runs = calibration_runs(texts, LONGEST, tokens)
    return [Prompt(f"text {at}", np.asarray(run), 0, True) for at, run in enumerate(runs)]


def compare(bundle: Path, model: Path, tokens: int, names: Sequence[str]) -> list[Comparison]:
    """The comparisons of some artifacts, all by default, and of the codes that they hold."""
    manifest = read_manifest(bundle)
    checkpoint = open_checkpoint(model).at_context(manifest.context_length)
    prompts = held_out_prompts(checkpoint, tokens)
    sequences, found = [prompt.ids for prompt in prompts], []
    floats = float_outputs(checkpoint, sequences, Silent())
    chosen = [each for each in manifest.artifacts if not names or each.name in names]
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        cache, runs = Cache(Path(scratch) / "cache"), load_runs(bundle / CALIBRATION)
        prepared = prepare(checkpoint, manifest.recipe, runs, cache, Silent())
        artifacts = {each.name: _quick_modes(each) for each in chosen}
        proof = Proof(bundle, artifacts, manifest.recipe.parity, Path(scratch), Silent())
        for golden in dict.fromkeys(each.golden for each in chosen):
            own = [artifacts[each.name] for each in chosen if each.golden == golden]
            schemes = matrix_schemes(checkpoint.model, manifest.recipe, own[0].name)
            codes = codes_of(checkpoint, schemes, cache, Silent(), prepared)
            exact = answers(codes, checkpoint.spec, prompts, sequences, own, Silent()).exact
            label = ", ".join(each.name for each in own)
            found.append(quantization_cost(label, floats, exact, manifest.recipe.parity))
            found += proof.compare(Answers(exact.reduced()), [each.name for each in own])
    return found


def _quick_modes(artifact: BundledArtifact) -> BundledArtifact:
    """The artifact without the modes that run a few prompts only."""
    modes = tuple(mode for mode in artifact.modes if mode.prompts is None)
    return replace(artifact, modes=modes)


def main() -> None:
    """Print the table of one bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--artifacts", default="")
    asked = parser.parse_args()
    names = asked.artifacts.split(",") if asked.artifacts else ()
    found = compare(asked.bundle, asked.model, asked.tokens, names)
    console = Console()
    console.print(parity_table(found))
    console.print(parity_note(found))


if __name__ == "__main__":
    main()
