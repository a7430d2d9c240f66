"""Run the ``ort`` artifact in ONNX Runtime on the CPU, with one sequence's KV cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from slmkit.backend.interface import Artifact
from slmkit.backend.static_runner import check_context
from slmkit.ops import Floats
from slmkit_onnx.ort.contract import LOGITS_FROM, StateTensor, state_tensors
from slmkit_onnx.ort.elsewhere import CHUNK
from slmkit_onnx.ort.integer_cache import with_float_cache
from slmkit_onnx.ort.lowering.ops import TAP
from slmkit_onnx.sessions import RUNTIME, cpu_session, load_error

ALL_ROWS = 0  # of logits_from: every token of the call


class OrtRunner:
    """Run tokens and keep the state of one sequence; ``exact``: at accuracy_level 0, with a KV
    cache of float32."""

    def __init__(
        self, folder: Path, artifact: Artifact, exact: bool, adapter: Path | None = None
    ) -> None:
        self.runtime = RUNTIME
        self.context_length = artifact.state.context_length
        self.has_attention = bool(artifact.state.attention_layers)
        model = folder / artifact.facts["model"]
        graph = _exact(model) if exact else model
        entries = artifact.facts.get("session_options")
        self.session = cpu_session(graph, folder, entries=entries, arena=not exact)
        self.adapter = None if adapter is None else load_adapter(adapter)
        cache = "float32" if exact else artifact.facts.get("kv_cache", "float32")
        self.state_tensors = state_tensors(artifact.state, cache)
        self.logits_from = artifact.facts.get("logits_from")
        self.length = 0
        self.past: dict[str, Any] = {}
        self.taps: dict[str, Floats] = {}
        self.reset()

    def reset(self) -> None:
        """Start a new sequence."""
        self.length = 0
        self.past = {each.past: _zeros(each) for each in self.state_tensors}

    def mark(self) -> tuple[int, dict[str, Any]]:
        """The sequence as it is now. Its tensors are never written again: each run makes new."""
        return self.length, self.past

    def rewind(self, mark: object) -> None:
        """Make the sequence what it was at ``mark``."""
        self.length, self.past = cast("tuple[int, dict[str, Any]]", mark)

    def feed(self, ids: NDArray[np.int64]) -> Floats:
        """Append tokens; return their logits. (T,) -> (T, V)

        Raises BackendError beyond the context length.
        """
        return self._feed(ids, None if self.logits_from is None else ALL_ROWS)

    def prefill(self, ids: NDArray[np.int64]) -> Floats:
        """Append a prompt as an app does, in chunks that answer their last token. (T,) -> (V,)

        Raises BackendError beyond the context length.
        """
        for at in range(0, len(ids), CHUNK):
            logits = self._feed(ids[at : at + CHUNK], None)
        last: Floats = logits[-1]
        return last

    def _feed(self, ids: NDArray[np.int64], first: int | None) -> Floats:
        """The logits of the tokens from ``first`` on; None: of those that the graph chooses."""
        self.length += len(ids)
        check_context(self.length, self.context_length)
        inputs = {"input_ids": _tensor(np.asarray(ids, dtype=np.int64)[None]), **self.past}
        if self.has_attention:
            inputs["attention_mask"] = _tensor(np.ones((1, self.length), dtype=np.int64))
        if first is not None:
            inputs[LOGITS_FROM] = _tensor(np.array([first]))
        names = [output.name for output in self.session.get_outputs()]
        values = dict(zip(names, self._run(names, inputs), strict=True))
        self.past = {each.past: values[each.present] for each in self.state_tensors}
        self.taps = {
            name.removeprefix(TAP): value.numpy()[0]
            for name, value in values.items()
            if name.startswith(TAP)
        }
        result: Floats = values["logits"].numpy()[0]
        return result

    def _run(self, names: list[str], inputs: dict[str, Any]) -> Any:
        """All outputs. With an adapter without a binding: ONNX Runtime ignores adapters there."""
        if self.adapter is not None:
            options = onnxruntime.RunOptions()
            options.add_active_adapter(self.adapter)  # which it does not keep alive
            return self.session.run_with_ort_values(names, inputs, options)
        binding = self.session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name in names:
            binding.bind_output(name)
        self.session.run_with_iobinding(binding)
        return binding.get_outputs()


def load_adapter(path: Path) -> onnxruntime.LoraAdapter:
    """An adapter's file. Raises BackendError for one that cannot be read."""
    adapter = onnxruntime.LoraAdapter()
    try:
        adapter.Load(str(path))
    except Exception as error:  # the runtime's own exception types
        raise load_error(path.name, error) from None
    return adapter


def _tensor(array: NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _zeros(state: StateTensor) -> Any:
    """A tensor of ONNX Runtime before the first token, all zeros. [1, *shape]"""
    return _tensor(np.zeros((1, *state.empty_shape()), state.dtype))


def _exact(path: Path) -> bytes:
    """The model with accuracy_level 0 in every MatMulNBits: float32 activations; and with a float32
    KV cache."""
    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    with_float_cache(model)
    serialized: bytes = model.SerializeToString()
    return serialized
