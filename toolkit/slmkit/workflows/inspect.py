"""Inspect a checkpoint: parameters, sizes by recipe, memory by context length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import RecipeError
from slmkit.interpreters.recorder import Model
from slmkit.models.spec import Spec
from slmkit.planning.imports import ImportRow, import_rows
from slmkit.planning.memory import MemoryPlan, plan_memory
from slmkit.recipe.recipe import load_recipe, shipped_names

CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768)


@dataclass(frozen=True)
class Inspection:
    """A checkpoint's facts."""

    name: str
    spec: Spec
    parameters: int
    tensors: int
    stored_bytes: int
    dtypes: tuple[str, ...]
    tokenizer_size: int
    has_chat_template: bool
    notices: tuple[str, ...]  # what a user should know, a sentence each
    ops: dict[str, int]
    plans: dict[str, list[MemoryPlan]]  # by recipe, one per context length
    codes: tuple[ImportRow, ...] = ()  # of a checkpoint that brings some

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        values = asdict(self)
        for key in ("long_rope", "local_rope", "names"):
            del values["spec"][key]
        values["spec"]["rope"] = {
            "pairs": len(self.spec.rope.frequencies),
            "magnitude": self.spec.rope.magnitude,
        }
        return values


def inspect(folder: Path, adapters: Sequence[Path] = ()) -> Inspection:
    """Open and check a checkpoint: nothing but headers is read, the scales of codes, and the whole
    of ``adapters``."""
    checkpoint = open_checkpoint(folder, adapters=adapters)
    spec, shards = checkpoint.spec, checkpoint.shards
    model = checkpoint.model
    imports = shards.imports if shards.formats else {}
    rounded = shards.rounded if imports else ()
    entries = [file.entries[name] for name, file in shards.where.items()]
    return Inspection(
        name=checkpoint.name,
        spec=spec,
        parameters=model.parameters,
        tensors=len(entries),
        stored_bytes=sum(entry.stop - entry.start for entry in entries),
        dtypes=tuple(sorted({entry.dtype for entry in entries})),
        tokenizer_size=checkpoint.tokenizer.size,
        has_chat_template=checkpoint.tokenizer.template is not None,
        notices=checkpoint.notices,
        ops=dict(model.ops),
        plans=_plans(model),
        codes=import_rows(model, shards.formats, imports, {}, rounded),
    )


def _plans(model: Model) -> dict[str, list[MemoryPlan]]:
    spec, plans = model.spec, {}
    contexts = [length for length in CONTEXTS if length < spec.trained_context]
    contexts = [*contexts, spec.trained_context][: len(CONTEXTS)]
    for name in shipped_names():
        recipe = load_recipe(name)
        try:
            plans[name] = [plan_memory(model, recipe, length) for length in contexts]
        except RecipeError:
            continue  # a recipe for other architectures
    return plans
