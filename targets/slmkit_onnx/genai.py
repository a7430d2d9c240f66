"""Files that onnxruntime-genai needs beside a model: its config and the tokenizer's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Job, TokenFacts

CONFIG = "genai_config.json"


def write_config(config: dict[str, Any], folder: Path) -> None:
    """Write genai_config.json into a folder."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def search_options(tokens: TokenFacts) -> dict[str, Any]:
    """The config's sampling: as the model's author says, else greedy."""
    author = tokens.generation
    options: dict[str, Any] = {"do_sample": author.do_sample}
    if author.do_sample:
        options |= {
            "temperature": author.temperature,
            "top_k": author.top_k,
            "top_p": author.top_p,
        }
    if author.repetition_penalty != 1:
        options["repetition_penalty"] = author.repetition_penalty
    return options


def token_ids(job: Job) -> dict[str, Any]:
    """The config's ids of the tokens bos, eos and pad; those that the model lacks are left out."""
    stop = list(job.tokens.stop)
    ids = {
        "bos_token_id": job.tokens.bos,
        "eos_token_id": stop or None,
        "pad_token_id": job.tokens.pad if job.tokens.pad is not None else (stop or [0])[0],
    }
    return {key: value for key, value in ids.items() if value is not None}
