"""ONNX Runtime sessions on the CPU, with weights in a file of a folder."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from slmkit.errors import BackendError

RUNTIME = f"onnxruntime {onnxruntime.__version__}, CPU"


def options_for(folder: Path | None) -> onnxruntime.SessionOptions:
    """Options for a model whose external data lies in ``folder``, or beside its file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
    # A 4-bit weight dequantized before a MatMul is fused to MatMulNBits, by default with
    # activations rounded to 8 bits: never in silence.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    return options


def cpu_session(
    model: Path | bytes, folder: Path, optimize: bool = True, name: str = "a graph"
) -> onnxruntime.InferenceSession:
    """Load a model file, or its bytes, which errors call ``name``. Raises BackendError with the
    runtime's first words."""
    options = options_for(folder)
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        source = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime raises its own kinds, all of them RuntimeError-like
        raise unloadable(name if isinstance(model, bytes) else model.name, error) from None


def unloadable(name: str, error: Exception) -> BackendError:
    """What to say of a graph that does not load."""
    return BackendError(
        f"ONNX Runtime cannot load {name}: {str(error).splitlines()[0]}",
        "slmkit verify BUNDLE tells whether a file was damaged",
    )
