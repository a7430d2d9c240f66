"""The definition of an artifact's program, stored beside the libraries in ``program.json``.

Parity builds the same program again from it, for the runtimes of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Job, Model, Spec
from slmkit.backend.job import model_from_json, spec_to_json
from slmkit.recipe.scheme import Scheme
from slmkit_mlc.params import Table, table_of
from slmkit_mlc.sizes import (
    BATCH,
    Limits,
    activation_dtype,
    cache_layer_kinds,
    prefill_chunk,
    state_kinds,
)

FILE = "program.json"


@dataclass(frozen=True)
class Definition:
    """A model, the schemes of its weights, and the sizes to plan memory for."""

    model: Model
    schemes: Mapping[str, Scheme]  # by matrix name
    layout: str  # of linears' weights: N_MAJOR or K_MAJOR
    limits: Limits
    debug: bool = False  # return tapped intermediates too

    @property
    def spec(self) -> Spec:
        """The model's configuration."""
        return self.model.spec

    @property
    def dtype(self) -> str:
        """The type of the libraries' activations."""
        return activation_dtype(self.model.states)

    @property
    def table(self) -> Table:
        """The libraries' parameters."""
        return table_of(self.model, self.schemes, self.layout)

    def program(self, dtype: str) -> Any:
        """The ``slmkit_mlc.lowering.program.Program`` with activations of this type."""
        from slmkit_mlc.lowering.program import Program

        return Program(self.model, self.table, dtype, self.limits, self.debug)

    def metadata(self, quantization: str) -> dict[str, Any]:
        """The library's ``_metadata`` without ``memory_usage``, which the compiler adds."""
        spec, model, limits = self.spec, self.model, self.limits
        kinds = state_kinds(model)
        return {
            "model_type": spec.model_type,
            "quantization": quantization,
            "context_window_size": limits.context,
            "prefill_chunk_size": limits.prefill,
            "max_batch_size": limits.batch,
            "sliding_window_size": -1,
            "attention_sink_size": -1,
            "tensor_parallel_shards": 1,
            "pipeline_parallel_stages": 1,
            "disaggregation": False,
            "kv_state_kind": kinds[0] if len(kinds) == 1 else "hybrid",
            "active_vocab_size": None,
            "model_task": "chat",
            "kv_cache": {
                "num_hidden_layers": len(cache_layer_kinds(model)),
                "num_attention_heads": spec.heads,
                "num_key_value_heads": spec.kv_heads,
                "head_dim": spec.head_width,
            },
            "params": [
                {
                    "name": param.name,
                    "shape": list(param.shape),
                    "dtype": param.dtype,
                    "preprocs": [],
                    "pipeline_stages": [0],
                }
                for param in self.table.params
            ],
        }

    def write(self, folder: Path) -> None:
        """Write ``program.json`` into a folder."""
        values = {
            "spec": spec_to_json(self.spec),
            "layout": self.layout,
            "schemes": {name: scheme.model_dump() for name, scheme in self.schemes.items()},
            "context": self.limits.context,
            "prefill": self.limits.prefill,
            "debug": self.debug,
        }
        (folder / FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")


def definition_for(job: Job) -> Definition:
    """The definition of a job's program, in the layout of its target's GPUs."""
    from slmkit_mlc.gpus import layout_of

    limits = Limits(job.context_length, prefill_chunk(job), BATCH)
    return Definition(job.model, job.codes.schemes, layout_of(job.target), limits, job.debug)


def read_definition(folder: Path) -> Definition:
    """Read ``program.json`` of a folder: the inverse of ``Definition.write``."""
    values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    schemes = {name: Scheme.model_validate(scheme) for name, scheme in values["schemes"].items()}
    limits = Limits(values["context"], values["prefill"], BATCH)
    model = model_from_json(values["spec"])
    return Definition(model, schemes, values["layout"], limits, values["debug"])
