"""States of layers that convolve or scan: inputs and outputs of a function, or Core ML states."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb  # noqa: N813

from slmkit.backend.interface import Model
from slmkit_coreml.contract import kept_shape, state_name, state_shape


class RecurrentStates:
    """Read the states that the tokens before left, and write those for the next tokens."""

    def __init__(self, model: Model, stateful: bool, inputs: dict[str, Any]) -> None:
        self.shapes = {(each.kind, each.layer): each for each in model.states}
        self.stateful, self.inputs = stateful, inputs
        self.outputs: list[Any] = []  # of the function; none if the package keeps the states

    def read(self, kind: str, layer: int) -> Any:
        """A layer's state, in the shape of ``state_shape``."""
        name = state_name(kind, layer)
        if not self.stateful:
            return self.inputs[f"past_{name}"]
        shape = state_shape(self.shapes[kind, layer])
        kept = mb.read_state(input=self.inputs[f"{name}_cache"])
        if math.prod(kept.shape) != math.prod(shape):
            line = mb.reshape(x=kept, shape=[1, 1, 1, math.prod(kept.shape)])
            kept = mb.slice_by_size(x=line, begin=[0] * 4, size=[1, 1, 1, math.prod(shape)])
        return mb.reshape(x=kept, shape=list(shape))

    def write(self, kind: str, layer: int, state: Any) -> None:
        """Keep a layer's new state, or make it an output."""
        name = state_name(kind, layer)
        if not self.stateful:
            self.outputs.append(mb.identity(x=state, name=f"new_{name}"))
            return
        shape, numbers = kept_shape(self.shapes[kind, layer]), math.prod(state.shape)
        if math.prod(shape) != numbers:
            line = mb.reshape(x=state, shape=[1, 1, 1, numbers])
            filling = np.zeros((1, 1, 1, math.prod(shape) - numbers), np.float16)
            state = mb.concat(values=[line, filling], axis=3)
        rows = mb.reshape(x=state, shape=list(shape))
        mb.coreml_update_state(state=self.inputs[f"{name}_cache"], value=rows)
