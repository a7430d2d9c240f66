"""What is installed: backends, runtimes, their versions, and how to get what is missing."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from slmkit import __version__
from slmkit.backend.registry import BUILT_IN, artifact_names, installed, pip_command
from slmkit.system.cache import default_folder

EXTRAS = {  # beyond backends: what it is for, and its packages
    "genai": (
        "Microsoft's runtime, to run the ort artifact as an app would",
        ("onnxruntime-genai",),
    ),
    "opencl": (
        "a processor's OpenCL runtime, to execute mlc's kernels",
        ("pyopencl", "intel-opencl-rt"),
    ),
    "test": ("the test suite", ("pytest", "pytest-xdist", "hypothesis", "onnxruntime-genai")),
    "crosscheck": ("comparing with transformers", ("torch", "transformers")),
    "train": ("retraining the sample model", ("torch", "transformers")),
}


@dataclass(frozen=True)
class Row:
    """One extra: what it is for, versions of its packages, and the command if one is missing."""

    extra: str
    about: str
    packages: dict[str, str | None]

    @property
    def command(self) -> str | None:
        """The exact command that installs what is missing; None if nothing is."""
        return pip_command(self.extra) if None in self.packages.values() else None


def examine() -> list[Row]:
    """All extras: backends first."""
    rows = [
        Row(built_in.extra, f"artifact {name}", installed(built_in.packages))
        for name, built_in in BUILT_IN.items()
    ]
    return rows + [Row(extra, about, installed(names)) for extra, (about, names) in EXTRAS.items()]


def surroundings() -> dict[str, str]:
    """slmkit, Python, the machine, the cache, other people's backends."""
    others = [name for name in artifact_names() if name not in BUILT_IN]
    return {
        "slmkit": __version__,
        "Python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}",
        "cache": str(default_folder()),
        "mlc_llm": "installed" if find_spec("mlc_llm") else "not installed (for compiler: mlc_llm)",
        "other backends": ", ".join(others) or "none",
    }
