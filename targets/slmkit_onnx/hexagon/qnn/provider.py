"""The QNN execution provider: its emulator of Hexagon, its compiler, and their words in the log."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import onnxruntime_qnn

from slmkit.errors import BackendError
from slmkit_onnx.hexagon.qnn.socs import Soc
from slmkit_onnx.sessions import session_options

PROVIDER = "QNNExecutionProvider"
VERSION = f"onnxruntime-qnn {onnxruntime_qnn.__version__}"


def qnn_session(
    model: Path, soc: Soc, config: Mapping[str, str] | None = None
) -> onnxruntime.InferenceSession:
    """A graph, or a context binary's stub, on the emulator; nothing may fall back to the CPU.

    Raises BackendError with the compiler's own reason.
    """
    options = session_options(None)  # a folder for weights would name every graph of it alike
    options.log_severity_level = 2  # warnings: the reason of a refusal stands there only
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    backend = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": str(soc.id)}
    options.add_provider_for_devices(_device(), backend)
    with logged() as log:
        try:
            return onnxruntime.InferenceSession(str(model), options)
        except Exception as error:  # the runtime raises its own kinds, all RuntimeError-like
            why = reason(log(), str(error))
    raise BackendError(
        f"QNN refused {model.name} for {soc.name}: {why}",
        "choose other artifacts with --artifacts, or other chips with --soc; please report this",
    )


def compiled(model: Path, soc: Soc, stub: Path, share: str = "") -> Any:
    """Compile ahead of time: writes the binary and its ``stub``; returns the session.

    ``share``: "first" and "last" of the graphs that share their weights in one binary. The first
    session must live until the last is made.
    """
    config = {
        "ep.context_enable": "1",
        "ep.context_file_path": str(stub),
        "ep.context_embed_mode": "0",
    }
    if share:
        config["ep.share_ep_contexts"] = "1"
    if share == "last":
        config["ep.stop_share_ep_contexts"] = "1"
    return qnn_session(model, soc, config)


def reason(log: str, said: str) -> str:
    """The compiler's reason in one sentence, out of its log and the error that was raised."""
    clean = re.sub(r"\x1b?\[[\d;]*m", "", log)
    telling = [
        line.split("] ", 1)[-1]
        for line in clean.splitlines()
        if re.search(r"failed|error|unsupported|not supported|exceed", line, re.IGNORECASE)
    ]
    words = telling[0] if telling else said.splitlines()[0]
    return " ".join(words.split())[:400]


@contextlib.contextmanager
def logged() -> Iterator[Any]:
    """Catch what native code writes to stdout and stderr; the text, as a function."""
    with tempfile.TemporaryFile() as file:
        flush()
        saved = os.dup(1), os.dup(2)
        for number in (1, 2):
            os.dup2(file.fileno(), number)

        def text() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield text
        finally:
            flush()
            for number, kept in zip((1, 2), saved, strict=True):
                os.dup2(kept, number)
                os.close(kept)


def flush() -> None:
    """Write out what Python and the C library hold back."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _device() -> Any:
    """The provider's first device; its library is registered once per process."""
    found = [each for each in onnxruntime.get_ep_devices() if each.ep_name == PROVIDER]
    if not found:
        library = onnxruntime_qnn.get_library_path()
        onnxruntime.register_execution_provider_library(PROVIDER, library)
        found = [each for each in onnxruntime.get_ep_devices() if each.ep_name == PROVIDER]
    return found[:1]
