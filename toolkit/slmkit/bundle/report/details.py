"""Details of a build that its report shows and its manifest has not: the first golden prompt as
every side reads it, and what codes lose by layer and by weight. They lie in proof/details.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from slmkit.backend.artifact import PROOF
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.models.names import layer_of
from slmkit.parity.first_prompt import FirstPrompt, LayerError
from slmkit.parity.metrics import Number, significant
from slmkit.planning.plan import Encoding
from slmkit.quant.codes import CodesFile
from slmkit.quant.linear_group import Fit, fits_of
from slmkit.system.plain_files import read_text

DETAILS = f"{PROOF}/details.json"
LONGEST = 1 << 24  # bytes of that file
SCHEMA = Path(__file__).with_name("details.schema.json")  # published; a test keeps it equal
STRICT = ConfigDict(extra="forbid", frozen=True)
WORST = 8  # matrices of each encoding that are named
HEAD = "head"  # of the weights outside layers


class Loss(BaseModel):
    """The share of the outputs' energy on calibration text that codes lose: the median of some
    matrices."""

    model_config = STRICT

    encoding: str
    of: str  # a layer's number or HEAD; a kind of weight; a matrix
    matrices: int
    loss: float
    rounded_loss: float  # the same of codes that are rounded to nearest


class Side(BaseModel):
    """One side's reading of the first golden prompt; all sides read the same tokens."""

    model_config = STRICT

    name: str  # an artifact and its mode, an encoding, or the float weights
    artifact: str  # empty of the references
    against: str  # what ``snr_db`` compares with; empty of the float weights
    snr_db: tuple[Number, ...]  # at each position
    tokens: tuple[str, ...]  # the best next token at each step after the prompt
    as_float: tuple[bool, ...]  # whether it is the float weights' best one


class Details(BaseModel):
    """All details of one build."""

    model_config = STRICT

    prompt: str  # the first golden prompt
    continued: str  # as the first artifact went on
    prompt_length: int  # tokens
    sides: tuple[Side, ...]  # the float weights first, then the codes
    stream: tuple[LayerError, ...]  # of the codes against the float weights
    layers: tuple[Loss, ...]
    kinds: tuple[Loss, ...]
    worst: tuple[Loss, ...]  # single matrices

    @property
    def stream_layers(self) -> list[int]:
        """The layers of ``stream``."""
        return list(dict.fromkeys(each.layer for each in self.stream))

    @property
    def stream_rows(self) -> list[tuple[str, list[float]]]:
        """For each encoding the SNR of ``stream`` by layer, in dB."""
        rows: dict[str, list[float]] = {}
        for each in self.stream:
            rows.setdefault(each.encoding, []).append(each.snr_db)
        return list(rows.items())


def details_of(
    first: FirstPrompt, tokenizer: Tokenizer, codes: Mapping[Encoding, CodesFile]
) -> Details:
    """The details of a build, out of what its proof and its quantization measured."""
    fits = [(each.name, fit) for each, own in codes.items() for fit in fits_of(own)]
    ids, end = first.ids, first.prompt_length
    return Details(
        prompt=tokenizer.decode(ids[:end]),
        continued=tokenizer.decode(ids[end:]),
        prompt_length=end,
        sides=_sides(first, tokenizer),
        stream=first.layers,
        layers=_losses((name, _layer(fit.name), fit) for name, fit in fits),
        kinds=_losses((name, fit.name.rpartition(".")[2], fit) for name, fit in fits),
        worst=_worst(fits),
    )


def save_details(details: Details, bundle: Path) -> None:
    """Write the details into a bundle's folder: the same details give the same bytes."""
    place = bundle / DETAILS
    place.parent.mkdir(exist_ok=True)
    place.write_text(details.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_details(bundle: Path) -> Details | None:
    """The details that a bundle keeps; None if it is older, or they cannot be read."""
    try:
        return Details.model_validate_json(read_text(bundle / DETAILS, LONGEST))
    except (OSError, ValueError, ValidationError):
        return None


def schema() -> dict[str, Any]:
    """The JSON Schema of proof/details.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Details.model_json_schema(mode="serialization"),
    }


def _sides(first: FirstPrompt, tokenizer: Tokenizer) -> tuple[Side, ...]:
    wanted = first.readings[0].best  # the float weights'
    return tuple(
        Side(
            name=f"{each.side} {each.mode}" if each.mode else _reference(each.side, each.against),
            artifact=each.side if each.mode else "",
            against=each.against,
            snr_db=each.snr_db,
            tokens=tuple(tokenizer.decode([token], special=True) for token in each.best),
            as_float=tuple(one == two for one, two in zip(each.best, wanted, strict=True)),
        )
        for each in first.readings
    )


def _reference(side: str, against: str) -> str:
    return f"{side} codes" if against else side


def _layer(matrix: str) -> str:
    layer = layer_of(matrix)
    return HEAD if layer is None else str(layer)


def _losses(rows: Iterable[tuple[str, str, Fit]]) -> tuple[Loss, ...]:
    """The medians of groups of matrices, by encoding and name."""
    groups: dict[tuple[str, str], list[Fit]] = {}
    for encoding, of, fit in rows:
        groups.setdefault((encoding, of), []).append(fit)
    return tuple(_loss(*key, fits) for key, fits in groups.items())


def _loss(encoding: str, of: str, fits: Sequence[Fit]) -> Loss:
    return Loss(
        encoding=encoding,
        of=of,
        matrices=len(fits),
        loss=significant(float(np.median([fit.loss for fit in fits]))),
        rounded_loss=significant(float(np.median([fit.rounded_loss for fit in fits]))),
    )


def _worst(fits: Sequence[tuple[str, Fit]]) -> tuple[Loss, ...]:
    """The matrices of each encoding that lose most."""
    found = []
    for encoding in dict.fromkeys(name for name, _ in fits):
        own = sorted((fit for name, fit in fits if name == encoding), key=lambda fit: -fit.loss)
        found += [_loss(encoding, fit.name, [fit]) for fit in own[:WORST]]
    return tuple(found)
