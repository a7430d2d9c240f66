"""The job of a backend as a description that can be sent to another process, and opened there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from slmkit.backend.interface import Job, TokenFacts
from slmkit.checkpoint.chat.conversations import GOLDEN, rendered
from slmkit.checkpoint.chat.portable import portable_template
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.checkpoint.tokenizer import BUILD_DAY, FILES, Tokenizer
from slmkit.errors import BundleError
from slmkit.interpreters.recorder import Model, summarize
from slmkit.models.spec import Spec
from slmkit.quant.codes import CodesFile


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class JobDescription:
    """A ``Job`` by paths and plain values."""

    artifact: str
    checkpoint: Path
    codes: Path
    options: dict[str, Any]
    context_length: int
    prefill_chunk: int
    about: dict[str, str]
    calibration: tuple[tuple[int, ...], ...] = ()
    target: str = ""
    debug: bool = False
    cache: Path | None = None
    chat_template: str | None = None  # the name of one of several
    adapters: tuple[Path, ...] = ()  # merged into the checkpoint: the codes hold them

    def as_json(self) -> dict[str, Any]:
        """For another process: ``job_from_json`` is the inverse."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values

    def facts(self) -> dict[str, Any]:
        """The values that an artifact's bytes depend on; the files at its paths are left out."""
        return {
            key: value
            for key, value in self.as_json().items()
            if key not in ("checkpoint", "codes", "cache", "adapters")
        }

    def open(self) -> Job:
        """Open the checkpoint and the codes, record the model. Raises CheckpointError."""
        opened = open_checkpoint(self.checkpoint, self.chat_template, self.adapters)
        checkpoint, codes = opened.at_context(self.context_length), CodesFile(self.codes)
        return Job(
            artifact=self.artifact,
            model=summarize(checkpoint.spec.scaled(codes.stream_scale)),
            codes=codes,
            options=self.options,
            context_length=self.context_length,
            prefill_chunk=self.prefill_chunk,
            tokens=token_facts(checkpoint.tokenizer, checkpoint.folder),
            calibration=self.calibration,
            about=self.about,
            target=self.target,
            debug=self.debug,
            cache=self.cache,
        )


_ADAPTER = TypeAdapter(JobDescription)


def job_from_json(values: Mapping[str, Any]) -> JobDescription:
    """The inverse of ``JobDescription.as_json``."""
    return _ADAPTER.validate_python(values)


def spec_to_json(spec: Spec) -> dict[str, Any]:
    """A spec as JSON values, for a backend that keeps it beside its files."""
    return asdict(spec)


def model_from_json(values: Mapping[str, Any]) -> Model:
    """The model of a spec that ``spec_to_json`` wrote.

    Raises BundleError for facts that this version does not know: without them the model would be
    another one.
    """
    unknown = sorted(set(values) - {each.name for each in fields(Spec)})
    if unknown:
        raise BundleError(
            f"the artifact was written by another version of slmkit: unknown {', '.join(unknown)}",
            "build the bundle again",
        )
    return summarize(TypeAdapter(Spec).validate_python(values))


def token_facts(tokenizer: Tokenizer, folder: Path) -> TokenFacts:
    """Facts of a checkpoint's tokenizer that an artifact's runtime needs; the same on every day.

    Ids that the model has no embedding for are left out.
    """
    tokenizer, later = tokenizer.on(BUILD_DAY), tokenizer.on(BUILD_DAY + timedelta(days=400))
    bos = tokenizer.known(tokenizer.token_id("bos_token"))
    return TokenFacts(
        bos=bos,
        stop=tokenizer.stop_ids,
        pad=tokenizer.known(tokenizer.token_id("pad_token")),
        files=tuple(tokenizer_files(folder)),
        chat_template=tokenizer.template,
        chat=tokenizer.chat if tokenizer.template else None,
        special=dict(tokenizer.special),
        adds_bos=bos is not None and tokenizer.encode("a")[:1] == [bos],
        portable=partial(portable_template, tokenizer),
        dated=any(rendered(tokenizer, each) != rendered(later, each) for each in GOLDEN),
        generation=tokenizer.author.settings,
        active=tokenizer.active,
    )


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files of a checkpoint that exist."""
    return [folder / name for name in FILES if (folder / name).is_file()]
