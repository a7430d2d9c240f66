"""What the libraries of an artifact are compiled of, small enough to lie beside them.

Parity builds the same program anew from it, for runtimes that are there, and compares kernels.
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
from slmkit_mlc.sizes import BATCH, Limits, cache_layers, dtype_of, kept_by, prefill_of

FILE = "program.json"


@dataclass(frozen=True)
class Definition:
    """Facts of the model, treatment of its weights, the sizes that memory is planned for."""

    model: Model
    schemes: Mapping[str, Scheme]
    layout: str
    limits: Limits
    debug: bool = False

    @property
    def spec(self) -> Spec:
        """The model's facts."""
        return self.model.spec

    @property
    def dtype(self) -> str:
        """The type in which the libraries compute."""
        return dtype_of(self.model.states)

    @property
    def table(self) -> Table:
        """The parameters."""
        return table_of(self.model, self.schemes, self.layout)

    def program(self, dtype: str) -> Any:
        """What the functions are written of, in a type of activations."""
        from slmkit_mlc.lowering.program import Program

        return Program(self.model, self.table, dtype, self.limits, self.debug)

    def metadata(self, quantization: str) -> dict[str, Any]:
        """What the library says of itself, but for the memory, which compiling adds."""
        spec, model, limits = self.spec, self.model, self.limits
        kept = kept_by(model)
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
            "kv_state_kind": kept[0] if len(kept) == 1 else "hybrid",
            "active_vocab_size": None,
            "model_task": "chat",
            "kv_cache": {
                "num_hidden_layers": len(cache_layers(model)),
                "num_attention_heads": spec.heads,
                "num_key_value_heads": spec.kv_heads,
                "head_dim": spec.head_width,
            },
            "params": [
                {
                    "name": each.name,
                    "shape": list(each.shape),
                    "dtype": each.dtype,
                    "preprocs": [],
                    "pipeline_stages": [0],
                }
                for each in self.table.params
            ],
        }

    def write(self, folder: Path) -> None:
        """Put it beside the libraries."""
        values = {
            "spec": spec_to_json(self.spec),
            "layout": self.layout,
            "schemes": {name: each.model_dump() for name, each in self.schemes.items()},
            "context": self.limits.context,
            "prefill": self.limits.prefill,
            "debug": self.debug,
        }
        (folder / FILE).write_text(json.dumps(values, indent=1), encoding="utf-8")


def definition_for(job: Job) -> Definition:
    """Of a job: the layout is the one of its platform's GPUs."""
    from slmkit_mlc.gpus import layout_of

    limits = Limits(job.context_length, prefill_of(job), BATCH)
    return Definition(job.model, job.codes.schemes, layout_of(job.target), limits, job.debug)


def read_definition(folder: Path) -> Definition:
    """The inverse of ``write``."""
    values = json.loads((folder / FILE).read_text(encoding="utf-8"))
    schemes = {name: Scheme.model_validate(each) for name, each in values["schemes"].items()}
    limits = Limits(values["context"], values["prefill"], BATCH)
    model = model_from_json(values["spec"])
    return Definition(model, schemes, values["layout"], limits, values["debug"])
