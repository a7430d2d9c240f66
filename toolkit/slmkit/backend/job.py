"""The job of a backend out of what can be written down: in a worker, or in a worker's worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from slmkit.backend.interface import Forward, Job, TokenFacts
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.tokenizer import FILES, Tokenizer
from slmkit.interpreters.recorder import Model, summarize
from slmkit.models import registry
from slmkit.models.spec import Spec
from slmkit.ops import Ops, V
from slmkit.quant.codes import CodesFile


def job_of(payload: Mapping[str, Any]) -> Job:
    """A job as ``emit.payload_of`` wrote it down."""
    opened = open_checkpoint(Path(payload["checkpoint"]))
    checkpoint = opened.at_context(payload["context_length"])
    model, forward = definition(checkpoint.spec)
    return Job(
        artifact=payload["artifact"],
        model=model,
        forward=forward,
        codes=CodesFile(Path(payload["codes"])),
        options=payload["options"],
        context_length=payload["context_length"],
        prefill_chunk=payload["prefill_chunk"],
        tokens=token_facts(checkpoint.tokenizer, checkpoint.folder),
        calibration=tuple(tuple(text) for text in payload["calibration"]),
        about=payload["about"],
        target=payload.get("target", ""),
        debug=payload.get("debug", False),
        payload=payload,
    )


def definition(spec: Spec) -> tuple[Model, Forward]:
    """What an architecture says, and its arithmetic."""

    def forward(o: Ops[V]) -> V:
        return registry.run(o, spec)

    return summarize(spec), forward


def written_spec(spec: Spec) -> dict[str, Any]:
    """A spec, for a backend that keeps it beside what it wrote."""
    return asdict(spec)


def read_spec(values: Mapping[str, Any]) -> Spec:
    """The inverse of ``written_spec``."""
    return TypeAdapter(Spec).validate_python(values)


def token_facts(tokenizer: Tokenizer, folder: Path) -> TokenFacts:
    """What an artifact's runtime must know of the tokenizer."""
    return TokenFacts(
        bos=tokenizer.token_id("bos_token"),
        stop=tokenizer.stop_ids,
        pad=tokenizer.token_id("pad_token"),
        files=tuple(tokenizer_files(folder)),
        chat_template=tokenizer.template,
        chat=tokenizer.chat if tokenizer.template else None,
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files of a checkpoint that exist."""
    return [folder / name for name in FILES if (folder / name).is_file()]
