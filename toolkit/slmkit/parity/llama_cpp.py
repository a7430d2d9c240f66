"""Parity of an exported GGUF file: llama.cpp runs it, and its probabilities are compared with the
reference's answers that the bundle keeps.

llama.cpp comes compiled in the package xllamacpp. It tells the log-probabilities of the likeliest
tokens after a prompt; those of the others are compared as one.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from slmkit.errors import BackendError, ParityError
from slmkit.ops import Floats
from slmkit.parity.golden import Golden
from slmkit.system import subprocess_worker
from slmkit.system.progress import Progress

PACKAGE = "xllamacpp"
POSITIONS = 48  # that are compared, spread over the golden texts
TOKENS = 512  # likeliest tokens of a position; JSON of a whole vocabulary has some megabytes
# llama.cpp rounds activations to 8 bits before each matrix: mean KL 4e-4 was measured on the
# sample model, 5e-3 on SmolLM2-135M and Gemma 3 270M. A wrong order of rows or a missing factor
# gives whole nats.
LARGEST_KL = 0.05
ALWAYS = 1e4  # a bias with which a token is chosen whatever its logit


@dataclass(frozen=True)
class LlamaCppParity:
    """llama.cpp against the reference on the same codes."""

    runtime: str
    positions: int
    mean_kl: float  # nats, over the likeliest tokens and all others as one
    max_kl: float
    top1: float  # share of positions with the same best token

    def check(self) -> None:
        """Raise ParityError beyond the bound."""
        if not self.mean_kl <= LARGEST_KL:
            raise ParityError(
                "llama.cpp computes another model out of the GGUF file: mean KL "
                f"{self.mean_kl:.3g} over {self.positions} positions, bound {LARGEST_KL}",
                "nothing was written: please report it as a bug",
            )


def is_installed() -> bool:
    """Whether llama.cpp can be run here."""
    return importlib.util.find_spec(PACKAGE) is not None


def compare_llama_cpp(
    path: Path, golden: Golden, vocabulary: int, filler: int, progress: Progress
) -> LlamaCppParity:
    """Run a GGUF file over the golden texts. Raises BackendError if llama.cpp does not load it.

    ``filler``: an id of a token that is text of its own, such as a letter: what llama.cpp is made
    to answer, since it tells no probabilities before half a character.
    """
    chosen = _positions(golden)
    starts = np.cumsum([0, *map(len, golden.sequences)])
    payload = {
        "path": str(path),
        "prompts": [golden.sequences[text][: at + 1].tolist() for text, at in chosen],
        "count": min(vocabulary, TOKENS),
        "filler": filler,
    }
    progress.stage("llama.cpp", len(chosen))
    done = 0

    def report(now: int, total: int) -> None:
        nonlocal done
        progress.advance(now - done)
        done = now

    about = f"runs {path.name} in llama.cpp"
    answers = subprocess_worker.call(f"{__name__}:run_job", payload, report, about)
    kls, same = [], 0
    for (text, at), (ids, logs) in zip(chosen, answers, strict=True):
        row = starts[text] + at
        kls.append(_divergence(golden, row, ids, np.array(logs)))
        same += int(ids[0] == golden.outputs.best[row])
    runtime = f"llama.cpp in {PACKAGE} {version(PACKAGE)}, CPU"
    mean, largest = float(np.mean(kls)), float(np.max(kls))
    return LlamaCppParity(runtime, len(chosen), mean, largest, same / len(chosen))


def run_job(payload: dict[str, Any], report: subprocess_worker.Report) -> list[list[Any]]:
    """In the worker: the likeliest tokens after each prompt, and their log-probabilities."""
    server, found = _open(payload), []
    for at, prompt in enumerate(payload["prompts"]):
        answer = server.handle_completions(
            {
                "prompt": prompt,
                "n_predict": 1,
                "n_probs": payload["count"],
                "temperature": 0.0,
                "cache_prompt": True,
                "post_sampling_probs": False,
                "logit_bias": [[payload["filler"], ALWAYS]],
            }
        )
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        try:
            told = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        except (KeyError, IndexError, TypeError):
            raise BackendError(f"llama.cpp told no probabilities: {str(answer)[:200]}") from None
        found.append([[each["id"] for each in told], [each["logprob"] for each in told]])
        report(at + 1, len(payload["prompts"]))
    return found


def _open(payload: dict[str, Any]) -> Any:
    """The file in llama.cpp, with a cache in float32."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = payload["path"]
    settings.n_ctx = max(map(len, payload["prompts"])) + 8
    settings.n_parallel = 1
    settings.n_gpu_layers = 0
    settings.port = 0
    # Its threads wait for each other by spinning: on a busy machine one is the fastest.
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.verbosity = 0
    settings.warmup = settings.fit_params = False
    settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return xllamacpp.Server(settings)


def _positions(golden: Golden) -> Sequence[tuple[int, int]]:
    """(text, position) of those to compare, in order."""
    every = [
        (text, at) for text in range(golden.texts) for at in range(len(golden.sequences[text]))
    ]
    steps = np.linspace(0, len(every) - 1, min(POSITIONS, len(every))).astype(int)
    return [every[step] for step in steps]


def _divergence(golden: Golden, row: int, ids: Sequence[int], logs: Floats) -> float:
    """KL in nats of the reference's probabilities from llama.cpp's, over the tokens that both
    tell, and all others as one."""
    outputs = golden.outputs
    place = {int(column): at for at, column in enumerate(outputs.columns)}
    both = [(place[each], at) for at, each in enumerate(ids) if each in place]
    ours = np.array([outputs.values[row, at] - outputs.norm[row] for at, _ in both])
    theirs = np.array([logs[at] for _, at in both])
    p, q = np.exp(ours), np.exp(theirs)
    rest = [max(1 - float(each.sum()), 1e-12) for each in (p, q)]
    return float((p * (ours - theirs)).sum() + rest[0] * np.log(rest[0] / rest[1]))
