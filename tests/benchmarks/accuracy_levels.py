"""ONNX Runtime's accuracy_level by kind of weight: what float32 activations buy and cost.

python tests/benchmarks/accuracy_levels.py BUNDLE MODEL [--tokens 500]

The bundle's ort graph runs at level 4 but for the weights of one kind, which run at level 0, over
held-out text, and is compared with the whole graph at level 0: median dB, KL, top-1, beside the
tokens per second of decoding, all in one run. MODEL is the bundle's checkpoint, for its tokenizer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from text_quality import held_out_prompts

from slmkit.bundle.manifest import BundledArtifact, read_manifest
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.ops import Floats
from slmkit.parity.golden import outputs_of
from slmkit.parity.metrics import measure
from slmkit_onnx.ort.runner import OrtRunner
from slmkit_onnx.sessions import cpu_session

KINDS = ("", "v_proj", "k_proj", "q_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "head")
DECODED = 32  # tokens that are timed


def at_level_0(model: Path, kind: str) -> bytes:
    """The graph with ``accuracy_level`` 0 for the weights of one kind; "all": for every one."""
    loaded = onnx.load(model, load_external_data=False)
    for node in loaded.graph.node:
        names = " ".join(node.input)
        is_head = "embed_tokens" in names or "lm_head" in names
        if kind == "all" or (kind and (is_head if kind == "head" else kind in names)):
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 0
    return bytes(loaded.SerializeToString())


def run(
    artifact: BundledArtifact, folder: Path, kind: str, texts: Sequence[np.ndarray]
) -> tuple[list[Floats], float]:
    """Logits of each text, and tokens per second of decoding behind the last one."""
    runner = OrtRunner(folder, artifact, exact=False)
    runner.session = cpu_session(at_level_0(folder / artifact.facts["model"], kind), folder)
    logits = []
    for ids in texts:
        runner.reset()
        logits.append(runner.feed(ids))
    begun = time.monotonic()
    for token in texts[-1][:DECODED]:
        runner.feed(np.array([token]))
    return logits, min(DECODED, len(texts[-1])) / (time.monotonic() - begun)


def main() -> None:
    """Print a line for each kind of weight."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=500)
    asked, say = parser.parse_args(), Console(highlight=False).print
    artifact, folder = read_manifest(asked.bundle).artifact("ort"), asked.bundle / "ort"
    prompts = held_out_prompts(open_checkpoint(asked.model), asked.tokens)
    texts = [prompt.ids for prompt in prompts]
    exact, speed = run(artifact, folder, "all", texts)
    say(f"{'level 0 for':12s}  median dB        KL   top-1  tokens/s")
    say(f"{'all':12s}  {'exact':>9s} {0:9.4f} {1:7.1%} {speed:9.1f}")
    for kind in KINDS:
        got, speed = run(artifact, folder, kind, texts)
        found = measure(outputs_of(exact), outputs_of(got), [])
        line = f"{found.median_db:9.1f} {found.kl:9.4f} {found.top1:7.1%} {speed:9.1f}"
        say(f"{kind or 'none':12s}  {line}")


if __name__ == "__main__":
    main()
