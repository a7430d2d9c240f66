"""Open a PEFT adapter for a model: each of its tensors checked, and matched with a weight."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from slmkit.checkpoint.adapters.change import Change, LowRank, finite
from slmkit.checkpoint.adapters.peft_config import (
    CONFIG,
    MERGE,
    WRITTEN,
    LoraConfig,
    read_lora_config,
)
from slmkit.checkpoint.adapters.stored import (
    BIAS,
    DOWN,
    MAGNITUDE,
    TABLE_DOWN,
    TABLE_UP,
    TENSORS,
    UP,
    WEIGHT,
    WHOLE,
    Modules,
    by_model_names,
    modules_of,
    open_tensors,
    spelled,
)
from slmkit.checkpoint.adapters.targets import targets_of
from slmkit.checkpoint.safetensors import SafetensorsFile
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Model
from slmkit.ops import Floats
from slmkit.system.cache import file_hash

HEAD = "lm_head"
EXPERTS = ".experts."  # PEFT sees no linears in models whose experts are one tensor of all
Targets = Mapping[str, tuple[int, float]]  # rank and alpha by module


@dataclass(frozen=True, eq=False)
class Adapter:
    """An open adapter: what it does with which of a model's tensors."""

    name: str
    config: LoraConfig
    changes: Mapping[str, Change]  # by tensor
    weights_sha256: str
    config_sha256: str
    notices: tuple[str, ...]

    @property
    def low_ranks(self) -> dict[str, LowRank]:
        """The changes of low rank by the matrix's name."""
        return {
            tensor.removesuffix(".weight"): change.low_rank
            for tensor, change in self.changes.items()
            if change.low_rank is not None
        }

    @property
    def is_zero(self) -> bool:
        """Whether nothing in it can change anything: the B of an untrained adapter are zero."""
        return all(
            change.file is None
            and change.magnitude is None
            and (change.low_rank is None or change.low_rank.is_zero)
            for change in self.changes.values()
        )


def open_adapter(folder: Path, model: Model) -> Adapter:
    """Read an adapter for ``model``. Raises CheckpointError for whatever it names and the model
    lacks, halves that are missing, wrong shapes, and arithmetic other than LoRA's and DoRA's."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder",
            WRITTEN,
        )
    config, file = read_lora_config(folder), open_tensors(folder)
    reader = _Reader(config, file, model)
    changes = reader.changes()
    adapter = Adapter(
        folder.resolve().name,
        config,
        changes,
        file_hash(folder / TENSORS),
        file_hash(folder / CONFIG),
        (),
    )
    first = _merged(adapter)
    nothing = [f"the adapter {adapter.name} changes nothing: all of its B are zero"]
    notices = [first, *(nothing if adapter.is_zero else []), *reader.notices]
    return replace(adapter, notices=tuple(notices))


def _merged(adapter: Adapter) -> str:
    config, base = adapter.config, adapter.config.base
    kind = "DoRA" if config.use_dora else "LoRA"
    scale = "rsLoRA, " if config.use_rslora else ""
    whole = sum(change.file is not None for change in adapter.changes.values())
    parts = [f"{len(adapter.low_ranks)} matrices"] + ([f"{whole} whole tensors"] if whole else [])
    return (
        f"with the adapter {adapter.name} ({kind}, {scale}rank {config.r}, alpha "
        f"{config.lora_alpha:g}): {' and '.join(parts)}"
        + (f"; it says that it was trained on {base}" if base else "")
    )


class _Reader:
    """Matches the tensors of one file with the weights of one model."""

    def __init__(self, config: LoraConfig, file: SafetensorsFile, model: Model) -> None:
        self.config, self.file, self.model = config, file, model
        weights = model.weights.values()
        modules = list(dict.fromkeys(each.name for each in weights if each.kind != "plain"))
        self.tied = model.spec.tied and HEAD not in modules
        known = [*modules, *([HEAD] if self.tied else [])]
        self.parts, calls, self.notices = by_model_names(
            modules_of(list(file.entries)), known, model.spec.layers
        )
        self.targets = self._targets(spelled(known, calls))

    def changes(self) -> dict[str, Change]:
        """By tensor name."""
        self._check_tied()
        self._check_targets(self.parts)
        found = {}
        for name, parts in self.parts.items():
            if name == HEAD and self.tied:
                continue  # equal to the table
            if BIAS in parts:
                found[f"{name}.bias"] = self._whole(f"{name}.bias", parts[BIAS])
            if parts.keys() - {BIAS}:
                found[f"{name}.weight"] = self._weight(name, parts)
        self._check_saved()
        if not found:
            raise CheckpointError("the adapter's file holds no tensor of this model", WHOLE)
        return found

    def _targets(self, names: Mapping[str, str]) -> Targets:
        """By the model's names. ``names``: those where the adapter was trained -> the model's."""
        matrices = self.model.multiplied | self.model.looked_up | {HEAD}
        modules = [each for each, own in names.items() if own in matrices]
        linears = [
            each
            for each, own in names.items()
            if own in self.model.multiplied - self.model.looked_up - {HEAD}
        ]
        found = targets_of(self.config, modules, linears)
        return {names[each]: value for each, value in found.items()}

    def _check_targets(self, modules: Modules) -> None:
        """The config and the file must name the same modules."""
        low = {name for name, parts in modules.items() if parts.keys() - {WEIGHT, BIAS}}
        extra = sorted(low - self.targets.keys())
        if extra:
            raise CheckpointError(
                f"the adapter's file has a LoRA of {extra[0]}, which {CONFIG} does not name: PEFT "
                "would leave it out",
                "the two files are of different adapters",
            )
        missing = sorted(self.targets.keys() - low)
        if missing and not any(EXPERTS in name for name in low):
            idle = [name for name in missing if EXPERTS in name]
            missing = [name for name in missing if EXPERTS not in name]
            if idle:
                self.notices.append("the adapter leaves the experts as they are")
        if missing:
            raise CheckpointError(
                f"{CONFIG} names {missing[0]}, of which the adapter's file has nothing"
                + (f", and {len(missing) - 1} more" if missing[1:] else ""),
                WHOLE,
            )

    def _check_saved(self) -> None:
        """Refuse names of ``modules_to_save`` without a tensor."""
        for wanted in self.config.modules_to_save:
            whole = [
                name
                for name, parts in self.parts.items()
                if {WEIGHT, BIAS} & parts.keys() and f".{wanted}." in f".{name}."
            ]
            if not whole:
                raise CheckpointError(
                    f"{CONFIG}: modules_to_save names {wanted}, of which the adapter's file has "
                    "nothing",
                    WHOLE,
                )

    def _check_tied(self) -> None:
        """Of a tied pair both must be changed, and alike: what PEFT computes and what it merges
        are two models otherwise."""
        pair = [*sorted(self.model.looked_up), HEAD]
        changed = [name for name in pair if name in self.parts]
        if not self.model.spec.tied or HEAD in self.model.shapes or not changed:
            return
        whole = [self.parts[name].get(WEIGHT) for name in changed]
        plain = all(set(self.parts[name]) == {WEIGHT} for name in changed)
        if len(changed) == len(pair) and plain and self._equal(*map(str, whole)):
            return
        raise CheckpointError(
            f"the adapter changes {' and '.join(changed)}, but tie_word_embeddings is true: table "
            "and head are one matrix",
            "untie them: store the head as a tensor of its own and set tie_word_embeddings to "
            "false, or train the adapter on the linears alone",
        )

    def _equal(self, one: str, other: str) -> bool:
        left, right = self.file.entries[one], self.file.entries[other]
        if left.shape != right.shape:
            return False
        return np.array_equal(self.file.floats(one), self.file.floats(other))

    def _weight(self, name: str, parts: Mapping[str, str]) -> Change:
        tensor = f"{name}.weight"
        whole = self._whole(tensor, parts[WEIGHT]) if WEIGHT in parts else Change()
        if parts.keys() <= {WEIGHT, BIAS}:
            return whole
        low_rank = self._low_rank(name, parts)
        magnitude = self._magnitude(name, parts, len(low_rank.up))
        return Change(low_rank, magnitude, whole.file, whole.stored, tensor)

    def _whole(self, tensor: str, stored: str) -> Change:
        """A tensor in the place of the base's."""
        if tensor not in self.model.weights:
            raise CheckpointError(
                f"the adapter has {stored}, and the model has no {tensor}",
                "the adapter is of another model",
            )
        weight = self.model.weights[tensor]
        self._check_shape(stored, weight.stored or weight.shape)
        return Change(file=self.file, stored=stored)

    def _low_rank(self, name: str, parts: Mapping[str, str]) -> LowRank:
        rank, alpha = self.targets[name]
        is_table = name in self.model.looked_up
        pair = (TABLE_DOWN, TABLE_UP) if is_table else (DOWN, UP)
        for part in pair:
            if part not in parts:
                raise CheckpointError(
                    f"the adapter has no {part} of {name}, only {', '.join(sorted(parts))}", WHOLE
                )
        outputs, inputs = self.model.shapes[name]
        if is_table:
            outputs, inputs = inputs, outputs
        self._check_shape(parts[pair[0]], (rank, inputs))
        self._check_shape(parts[pair[1]], (outputs, rank))
        down, up = self._floats(parts[pair[0]]), self._floats(parts[pair[1]])
        if is_table:
            down, up = np.ascontiguousarray(up.T), np.ascontiguousarray(down.T)
        scale = alpha / math.sqrt(rank) if self.config.use_rslora else alpha / rank
        with np.errstate(over="ignore"):  # a product beyond float32 is refused as infinity
            return LowRank(finite(up * np.float32(scale), parts[pair[1]]), down)

    def _magnitude(self, name: str, parts: Mapping[str, str], rows: int) -> Floats | None:
        """DoRA's; it must be there if the config says so, and only then."""
        if self.config.use_dora != (MAGNITUDE in parts):
            said = "says use_dora" if self.config.use_dora else "does not say use_dora"
            has = "has" if MAGNITUDE in parts else "has no"
            raise CheckpointError(
                f"{CONFIG} {said}, and the file {has} magnitudes of {name}", WHOLE
            )
        if MAGNITUDE not in parts:
            return None
        if name in self.model.looked_up:
            raise CheckpointError(f"the adapter is a DoRA of the table {name}", MERGE)
        self._check_shape(parts[MAGNITUDE], (rows,))
        return self._floats(parts[MAGNITUDE])

    def _floats(self, stored: str) -> Floats:
        return finite(self.file.floats(stored), stored)

    def _check_shape(self, stored: str, shape: tuple[int, ...]) -> None:
        found = self.file.entries[stored].shape
        if found != shape:
            raise CheckpointError(
                f"the adapter's tensor {stored} has the shape {found}, expected {shape}",
                "rank (r, rank_pattern) or the model's sizes are others than those that it was "
                "trained with; of an embedding: tokens were added, which the base's lacks",
            )
