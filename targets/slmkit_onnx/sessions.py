"""ONNX Runtime sessions on the CPU, for models whose weights lie in an external data file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import onnxruntime

from slmkit.backend.threads import threads
from slmkit.errors import BackendError

# What a session reads outside of its model: it has to live as long as the session.
_READ: WeakKeyDictionary[onnxruntime.InferenceSession, Mapping[str, Any]] = WeakKeyDictionary()
RUNTIME = f"onnxruntime {onnxruntime.__version__}, CPU"


def session_options(folder: Path | None) -> onnxruntime.SessionOptions:
    """Session options for a model whose external data lies in ``folder``; None: beside its file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads(0)  # 0: as many as there are cores
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    # ONNX Runtime fuses DequantizeLinear of a 4-bit weight and MatMul to MatMulNBits, by default
    # with activations rounded to 8 bits. Level 0 keeps float32 activations.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    return options


def cpu_session(
    model: Path | bytes,
    folder: Path,
    optimize: bool = True,
    name: str = "a graph",
    entries: Mapping[str, str] | None = None,
    arena: bool = True,
    initializers: Mapping[str, onnxruntime.OrtValue] | None = None,
    in_place: bool = False,
) -> onnxruntime.InferenceSession:
    """Load a model from a file or from its bytes; ``folder`` holds the external data.

    ``optimize``: run the graph optimizations. ``name``: the model's name in error messages if it is
    given as bytes. ``entries``: more entries of the session options. ``arena``: keep memory from
    one run for the next, as an app's session does: as much as the largest matrix takes in float32,
    where an operation dequantizes it. ``initializers``: numbers in place of those that the model
    says to lie in the external data; ``in_place``: they are read where they are, no weight of the
    model is packed, and nothing but products of matrices may read them. Raises BackendError with
    the first line of the runtime's message.
    """
    options = session_options(folder)
    options.enable_cpu_mem_arena = arena
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    given = dict(initializers or {})
    if given and in_place:
        options.add_session_config_entry("session.disable_prepacking", "1")
        for name, value in given.items():
            options.add_initializer(name, value)
    elif given:
        options.add_external_initializers(list(given), list(given.values()))
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        _READ[session] = given
        return session
    except Exception as error:  # the runtime's own exception types, similar to RuntimeError
        raise load_error(name if isinstance(model, bytes) else model.name, error) from None


def load_error(name: str, error: Exception) -> BackendError:
    """The error for a model that ONNX Runtime does not load, with the first line of its message."""
    return BackendError(
        f"ONNX Runtime cannot load {name}: {str(error).splitlines()[0]}",
        "slmkit verify BUNDLE tells whether a file was damaged",
    )
