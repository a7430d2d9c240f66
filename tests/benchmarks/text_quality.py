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

from slmkit.activations.observe import calibration_runs
from slmkit.bundle.manifest import BundledArtifact, read_manifest
from slmkit.checkpoint.folder import Checkpoint
from slmkit.cli.tables.parity import parity_note, parity_table
from slmkit.evaluation.text import HELD_OUT
from slmkit.parity.golden import Prompt
from slmkit.parity.metrics import Comparison
from slmkit.parity.proof import Proof
from slmkit.parity.references import Answers, answers, float_outputs, quantization_cost
from slmkit.planning.calibration import calibration_texts
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit.workflows.codes import bundle_codes, checkpoint_of

LONGEST = 128  # tokens of one text


def held_out_prompts(checkpoint: Checkpoint, tokens: int) -> list[Prompt]:
    """About ``tokens`` tokens of held-out text."""
    texts = calibration_texts(checkpoint, HELD_OUT)
    runs = calibration_runs(texts, LONGEST, tokens)
    return [Prompt(f"text {at}", np.asarray(run), 0, True) for at, run in enumerate(runs)]


def compare(bundle: Path, model: Path, tokens: int, names: Sequence[str]) -> list[Comparison]:
    """The comparisons of some artifacts, all by default, and of the codes that they hold."""
    manifest = read_manifest(bundle)
    checkpoint = checkpoint_of(manifest, model)
    prompts = held_out_prompts(checkpoint, tokens)
    sequences, found = [prompt.ids for prompt in prompts], []
    floats = float_outputs(checkpoint, sequences, Silent())
    chosen = [each for each in manifest.artifacts if not names or each.name in names]
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        cache = Cache(Path(scratch) / "cache")
        artifacts = {each.name: _quick_modes(each) for each in chosen}
        proof = Proof(bundle, artifacts, manifest.recipe.parity, Path(scratch), Silent())
        for golden in dict.fromkeys(each.golden for each in chosen):
            own = [artifacts[each.name] for each in chosen if each.golden == golden]
            codes = bundle_codes(bundle, manifest, checkpoint, own[0].name, cache, Silent())
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
