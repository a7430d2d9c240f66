"""slmkit beside the converters of others: build, memory, size, speed, in one run on one machine.

python tests/benchmarks/against_peers.py CHECKPOINT FOLDER [--recipe int4] [--context 512]
    [--prompt 128] [--decode 64] [--rounds 5] [--threads 2] [--peers litert-torch] [--gguf FILE]

Each peer gets an environment of its own in FOLDER (with uv; a peer that cannot be installed has a
row that says so). Then all models run in turns, ours in the peer's own runtime, each in a process
of its own, and the medians of their speeds are printed as a table. Quality is another question:
``quality.py``.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import uv
from process_cost import measure, run_measured

HERE = Path(__file__).resolve().parent / "peers"
TORCH = "torch==2.13.0"  # the CPU build


@dataclass(frozen=True)
class Runtime:
    """A runtime that models are run in, and the packages of its environment."""

    script: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """Another tool that makes a model of a checkpoint."""

    name: str
    packages: tuple[str, ...]
    build: Callable[[Path, Path, argparse.Namespace], list[str]]  # of (programs, out, options)
    runtime: str
    result: str  # a pattern of the model in the folder that it writes


RUNTIMES = {
    "onnxruntime-genai": Runtime("run_genai.py", ("onnxruntime-genai>=0.18",)),
    "LiteRT-LM": Runtime("run_litert_lm.py", ("litert-lm-api>=0.18.1",)),
    "llama.cpp": Runtime("run_llama_cpp.py", ("xllamacpp",)),
}
PEERS = (
    Peer(
        "onnxruntime-genai's builder, int4",
        ("onnxruntime-genai>=0.18", "onnx-ir", TORCH, "transformers", "numpy"),
        lambda programs, out, options: [
            str(programs / "python"),
            *("-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"),
            *("-i", str(options.checkpoint), "-o", str(out), "-c", str(out.parent / "cache")),
        ],
        "onnxruntime-genai",
        ".",
    ),
    Peer(
        "litert-torch, int4 channels",
        ("litert-torch>=0.10", TORCH, "tensorflow-cpu"),
        lambda programs, out, options: [
            *(str(programs / "litert-torch"), "export_hf", f"--model={options.checkpoint}"),
            *(f"--output_dir={out}", "--quantization_recipe=dynamic_wi4_afp32"),
            *(f"--cache_length={options.context}", "--prefill_lengths=[128]"),
        ],
        "LiteRT-LM",
        "*.litertlm",
    ),
)
OURS = {  # artifact: its runtime, and the model in the bundle
    "ort": ("onnxruntime-genai", "ort"),
    "litert": ("LiteRT-LM", "litert/model.litertlm"),
}


@dataclass
class Row:
    """One model: what it cost, and its runs."""

    name: str
    runtime: str
    model: Path | None = None
    cost: dict[str, float] = field(default_factory=dict)
    runs: list[dict[str, float]] = field(default_factory=list)
    failure: str = ""

    def cells(self) -> list[str]:
        """The row of the table."""
        if self.failure:
            return [self.name, self.runtime, self.failure, "", "", "", ""]
        build = [f"{self.cost[key]:.1f}" if self.cost else "" for key in ("seconds", "tree_gb")]
        prefill, decode = (
            statistics.median(run[key] for run in self.runs) if self.runs else float("nan")
            for key in ("prefill", "decode")
        )
        megabytes = f"{size(self.model):.0f}" if self.model else ""
        return [self.name, self.runtime, *build, megabytes, f"{decode:.1f}", f"{prefill:.0f}"]


def main() -> None:
    """Build with all, run in turns, print the table."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = _ours(options)
    for peer in PEERS:
        if not options.peers or any(each in peer.name for each in options.peers.split(",")):
            rows.append(_theirs(peer, options))
    environments = {}
    for name in {row.runtime for row in rows}:
        environments[name] = _environment(RUNTIMES[name].packages, name, options)
    for _ in range(options.rounds):
        for row in rows:
            environment = environments[row.runtime]
            if isinstance(environment, str):
                row.failure = row.failure or environment
            elif not row.failure:
                _run(row, environment, options)
    head = ["model", "runtime", "build s", "GB", "MB", "decode tokens/s", "prefill tokens/s"]
    for cells in (head, ["---"] * len(head), *(row.cells() for row in rows)):
        print("| " + " | ".join(cells) + " |")  # noqa: T201


def _ours(options: argparse.Namespace) -> list[Row]:
    """A bundle for each artifact, with its proof, and without a cache."""
    rows = []
    for artifact, (runtime, place) in OURS.items():
        out = options.folder / f"slmkit-{artifact}"
        command = [sys.executable, "-m", "slmkit", "build", "--target", "android", "--no-cache"]
        command += ["--model", str(options.checkpoint), "--recipe", options.recipe]
        command += ["--context", str(options.context), "--artifacts", artifact]
        command += ["--out", str(out), "--force", "--quiet"]
        row = Row(f"slmkit's {artifact}, proved", runtime, cost=measure(command))
        row.model = next(out.glob("*/manifest.json")).parent / place
        rows.append(row)
    if options.gguf:
        rows.append(Row(f"{options.gguf.name}, not made here", "llama.cpp", options.gguf))
    return rows


def _theirs(peer: Peer, options: argparse.Namespace) -> Row:
    """A peer's model, built in the peer's environment."""
    row, environment = Row(peer.name, peer.runtime), _environment(peer.packages, peer.name, options)
    if isinstance(environment, str):
        row.failure = environment
        return row
    out = options.folder / _plain(peer.name) / "out"
    log = out.parent / "build.txt"
    with log.open("wb") as file:
        status, row.cost = run_measured(
            peer.build(environment / "bin", out, options), stdout=file, stderr=subprocess.STDOUT
        )
    row.model = out if peer.result == "." else next(out.glob(peer.result), None)
    if status or row.model is None:
        row.failure = f"its build failed: see {log}"
    return row


def _environment(packages: tuple[str, ...], name: str, options: argparse.Namespace) -> Path | str:
    """An environment with these packages, made once; or why there is none."""
    made: Path = options.folder / _plain(name) / "venv"
    if not (made / "bin" / "python").exists():
        subprocess.run([uv.find_uv_bin(), "venv", "--quiet", str(made)], check=True)
    command = [uv.find_uv_bin(), *("pip", "install", "--quiet", "--python", str(made)), *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"not installed: {done.stderr.strip().splitlines()[-1]}"
    return made


def _run(row: Row, environment: Path, options: argparse.Namespace) -> None:
    """One run, in a process of its own."""
    command = [str(environment / "bin" / "python"), str(HERE / RUNTIMES[row.runtime].script)]
    command += [str(row.model), "--prompt", str(options.prompt), "--decode", str(options.decode)]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        row.failure = f"does not run: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
        return
    row.runs.append(json.loads(done.stdout.strip().splitlines()[-1]))


def size(model: Path) -> float:
    """MB of a file, or of a folder's files."""
    files = [model] if model.is_file() else model.rglob("*")
    return sum(each.stat().st_size for each in files if each.is_file()) / 1e6


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", default="int4")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="", help="only those whose names have one of these")
    parser.add_argument(
        "--gguf", type=Path, help="a file of llama.cpp, whose converter is no package"
    )
    for name, default in (("prompt", 128), ("decode", 64), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


if __name__ == "__main__":
    main()
