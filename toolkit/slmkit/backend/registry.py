"""How a backend is found by the name of its artifact, and which packages it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

from slmkit.backend.interface import Backend
from slmkit.errors import BackendError


@dataclass(frozen=True)
class BuiltIn:
    """A backend of ours: where it is, and what it needs from PyPI.

    ``proving``: packages without which it writes the same, but can execute less of it here.
    """

    module: str
    extra: str
    packages: tuple[str, ...]
    proving: tuple[str, ...] = ()


BUILT_IN = {
    "ort": BuiltIn("slmkit_onnx.ort.backend", "ort", ("onnx", "onnxruntime")),
    "hexagon": BuiltIn(
        "slmkit_onnx.hexagon.backend", "hexagon", ("onnx", "onnxruntime", "onnxruntime-qnn")
    ),
    "coreml": BuiltIn("slmkit_coreml.backend", "coreml", ("coremltools",)),
    "litert": BuiltIn(
        "slmkit_litert.backend",
        "litert",
        ("tensorflow-cpu", "ai-edge-litert", "litert-lm-builder"),
    ),
    "mlc": BuiltIn(
        "slmkit_mlc.backend",
        "mlc",
        ("apache-tvm", "apache-tvm-ffi"),
        ("pyopencl", "intel-opencl-rt", "mlc-llm"),
    ),
}
GROUP = "slmkit.backend.registry"  # entry points of other people's backends


def artifact_names() -> list[str]:
    """Artifacts that some backend writes: ours, then other people's."""
    return [*BUILT_IN, *sorted(point.name for point in entry_points(group=GROUP))]


def find_backend(artifact: str) -> Backend:
    """Import the backend of an artifact. Raises BackendError if it or its libraries are missing."""
    if artifact in BUILT_IN:
        built_in = BUILT_IN[artifact]
        _require(artifact, built_in)
        return _as_backend(import_module(built_in.module))
    for point in entry_points(group=GROUP):
        if point.name == artifact:
            return _as_backend(point.load())
    raise BackendError(
        f"no backend writes {artifact!r}", f"known artifacts: {', '.join(artifact_names())}"
    )


def installed(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of PyPI packages; None for one that is not installed."""
    return {name: _version(name) for name in packages}


def versions_of(artifact: str) -> dict[str, str | None]:
    """Versions of the libraries that an artifact's bytes depend on."""
    if artifact in BUILT_IN:
        built_in = BUILT_IN[artifact]
        return installed((*built_in.packages, *built_in.proving, "numpy"))
    return {}


def pip_command(extra: str) -> str:
    """The command that installs what an extra needs."""
    return f'pip install "slmkit[{extra}]"'


def _require(artifact: str, built_in: BuiltIn) -> None:
    missing = [name for name, found in installed(built_in.packages).items() if found is None]
    if missing:
        raise BackendError(
            f"the artifact {artifact} needs {', '.join(missing)}", pip_command(built_in.extra)
        )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _as_backend(found: Any) -> Backend:
    backend: Backend = found
    return backend
