"""The QNN execution provider: sessions on its Hexagon emulator, its compiler, and its log."""

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
    """Load a graph, or a context binary's stub, on the emulator; CPU fallback is disabled.

    ``config``: further session options. Raises BackendError with the compiler's own reason.
    """
    options = session_options(None)  # with a weights folder, QNN gives all its graphs one name
    options.log_severity_level = 2  # warnings: only they have the reason of a refusal
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    backend = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": str(soc.id)}
    options.add_provider_for_devices(_device(), backend)
    with capture_native_output() as log:
        try:
            return onnxruntime.InferenceSession(str(model), options)
        except Exception as error:  # the runtime's own exception types, similar to RuntimeError
            reason = compiler_reason(log(), str(error))
    raise BackendError(
        f"QNN refused {model.name} for {soc.name}: {reason}",
        "choose other artifacts with --artifacts, or other chips with --soc; please report this",
    )


def compile_graph(model: Path, soc: Soc, stub: Path, share_role: str = "") -> Any:
    """Compile a graph ahead of time: write the binary and its ``stub``; return the session.

    ``share_role``: "first" or "last" of two graphs that share their weights in one binary, "" for a
    graph with a binary of its own. The first session must live until the last is made.
    """
    config = {
        "ep.context_enable": "1",
        "ep.context_file_path": str(stub),
        "ep.context_embed_mode": "0",
    }
    if share_role:
        config["ep.share_ep_contexts"] = "1"
    if share_role == "last":
        config["ep.stop_share_ep_contexts"] = "1"
    return qnn_session(model, soc, config)


def compiler_reason(log: str, error_text: str) -> str:
    """The compiler's reason in one sentence, at most 400 characters.

    It is the first line of the ``log`` that names a failure, or else the first of ``error_text``.
    """
    plain_log = re.sub(r"\x1b?\[[\d;]*m", "", log)
    reasons = [
        line.split("] ", 1)[-1]
        for line in plain_log.splitlines()
        if re.search(r"failed|error|unsupported|not supported|exceed", line, re.IGNORECASE)
    ]
    sentence = reasons[0] if reasons else error_text.splitlines()[0]
    return " ".join(sentence.split())[:400]


@contextlib.contextmanager
def capture_native_output() -> Iterator[Any]:
    """Redirect stdout and stderr of native code; yield a function that returns the text."""
    with tempfile.TemporaryFile() as file:
        flush_native_output()
        saved = {number: os.dup(number) for number in (1, 2)}
        for number in saved:
            os.dup2(file.fileno(), number)

        def text() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield text
        finally:
            flush_native_output()
            for number, original in saved.items():
                os.dup2(original, number)
                os.close(original)


def flush_native_output() -> None:
    """Flush the output buffers of Python and of the C library."""
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)


def _device() -> Any:
    """The provider's first device, as a list; its library is registered once per process."""
    devices = [each for each in onnxruntime.get_ep_devices() if each.ep_name == PROVIDER]
    if not devices:
        library = onnxruntime_qnn.get_library_path()
        onnxruntime.register_execution_provider_library(PROVIDER, library)
        devices = [each for each in onnxruntime.get_ep_devices() if each.ep_name == PROVIDER]
    return devices[:1]
