"""A backend's declaration: all that slmkit must know of it before its libraries are imported.

A package declares each of its backends by a ``Declaration`` that an entry point of the group
``slmkit.backends`` names. Nothing else in slmkit knows a backend: its targets, its packages, the
errors that its parity may show, and its options on the command line all come from here.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slmkit.backend.targets import Target

Processor = Literal["cpu", "gpu", "npu"]
LAST = 100  # the rank of backends that name none
LOWERING, QUANTIZATION = "lowering", "quantization"  # the two errors that every bundle shows


def this_machine() -> str:
    """The machine as wheels are told apart: "linux-x86_64", "darwin-arm64", "win32-AMD64"."""
    return f"{sys.platform}-{platform.machine()}"


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error that an artifact's comparisons show, and its bound where a recipe names
    none.

    ``bound``: keys of ``slmkit.recipe.bounds.Bound``. ``experts_by_median``: of models that choose
    experts, only the median position must keep the bound; false where both sides choose the same
    experts. ``random_ids``: judged on golden prompts of random ids too, which no user types: only
    where neither side rounds what the other does not. Else texts alone judge.
    """

    about: str
    bound: Mapping[str, float]
    experts_by_median: bool = True
    random_ids: bool = False


@dataclass(frozen=True)
class CommandOption:
    """An alias on the command line for one option of the artifact: ``--soc`` for
    ``--option ARTIFACT.soc=...``. ``several``: the value is a list, separated by commas."""

    flag: str
    key: str
    help: str
    several: bool = False


@dataclass(frozen=True)
class Extra:
    """More packages that a user of the artifact may want: ``slmkit doctor`` shows them."""

    name: str  # of slmkit's extra
    about: str
    packages: tuple[str, ...]
    install: str = ""  # how to get them, if not as an extra of slmkit


@dataclass(frozen=True)
class Runtime:
    """A library that an app links to run an artifact: bundles' bills of materials name it."""

    purl: str  # https://github.com/package-url/purl-spec, without a version
    license: str  # an SPDX expression; empty: its maker's own terms
    version_of: str = ""  # the Python package with the same version numbers


@dataclass(frozen=True)
class KernelLoss:
    """Precision that a runtime's kernels for some processors lose, which this computer may not
    show."""

    features: tuple[str, ...]  # of a processor, all of which these kernels need, as Linux has them
    about: str  # the kernels, and their loss as far as it was measured
    remedy: str  # the option that avoids it, and its cost as far as that was measured
    avoided: Mapping[str, Any] = field(default_factory=dict)  # an artifact's facts where it is set


@dataclass(frozen=True)
class Elsewhere:
    """How an artifact runs on another machine, where there is no slmkit.

    ``engine``: "package:file", a script without slmkit whose function ``open_engine(folder,
    artifact, threads)`` loads a written artifact as it ships: ``slmkit.devices.payload`` says what
    the engine offers. ``files``: patterns of the artifact's files that it reads. ``packages``:
    PyPI packages that it imports, the runtime first, whose version is this computer's.
    ``systems``: those that the runtime is made for, as ``uname -s`` names them. ``mode``: of the
    artifact, whose arithmetic it has there; empty: the timed one. ``untried``: what
    every report of it says, where nobody has executed it yet.
    """

    engine: str
    files: tuple[str, ...]
    packages: tuple[str, ...]
    losses: tuple[KernelLoss, ...] = ()
    systems: tuple[str, ...] = ("Linux", "Darwin")
    mode: str = ""
    untried: str = ""


@dataclass(frozen=True)
class Forecast:
    """The most memory that one kind of process takes, for a model of any size."""

    base: int  # bytes
    per_parameter: float  # bytes
    most: int | None = None  # bytes, where work is cut into parts of one size

    def of(self, parameters: int) -> int:
        """Bytes, for a model of so many parameters."""
        found = self.base + int(self.per_parameter * parameters)
        return found if self.most is None else min(found, self.most)


# Where nothing was measured: more than every backend of slmkit takes but Hexagon's compiler.
UNKNOWN = Forecast(base=900 * 10**6, per_parameter=8)


@dataclass(frozen=True)
class Declaration:
    """One backend, named by the artifact that it writes."""

    artifact: str
    about: str
    module: str  # the module (or "module:object") that has what ``interface.Backend`` asks for
    targets: tuple[Target, ...]  # those that the artifact is built for
    packages: tuple[str, ...] = ()  # PyPI packages without which nothing can be written
    proof_packages: tuple[str, ...] = ()  # those without which less can be executed here
    machines: tuple[str, ...] = ()  # as ``this_machine`` names them; empty: wheels for every one
    extra: str = ""  # the extra of slmkit that installs the packages; empty: they are named
    errors: Mapping[str, ErrorKind] = field(default_factory=dict)
    command_options: tuple[CommandOption, ...] = ()
    extras: tuple[Extra, ...] = ()
    runtimes: tuple[Runtime, ...] = ()
    use: str = ""  # "package:file", a Jinja template: the artifact's part of a bundle's USE.md
    # why no LoRA adapter can lie beside an artifact; empty: one can, and the module has what
    # ``interface.TakesAdapters`` asks for
    no_adapters: str = "its backend has no form of adapters"
    processor: Processor | None = None  # of a phone, that runs it; None: no forecasts of speed
    copies: int = 1  # of each matrix in its runtime's memory: a token reads one of them
    timed: str = ""  # the mode that runs the shipped artifact in its own runtime, on a computer too
    untimed: str = "its runtime does not run on this computer"  # why, where there is no such mode
    elsewhere: Elsewhere | None = None  # None: nothing here can run it on another machine
    emitting: Forecast = UNKNOWN  # of the process that writes it
    running: Forecast = UNKNOWN  # of a process that runs it for parity
    float16: bool = False  # it computes in float16: a model that would overflow is refused
    rank: int = LAST  # position in builds and listings; the first continues the golden prompts

    @property
    def available(self) -> bool:
        """Whether this machine can have the packages."""
        return not self.machines or this_machine() in self.machines

    @property
    def requirements(self) -> tuple[str, ...]:
        """The arguments of ``pip install`` that bring the packages."""
        return (f"slmkit[{self.extra}]",) if self.extra else self.packages


EVERY_ERROR = {
    LOWERING: ErrorKind(
        "the artifact in float32 against the reference on the same codes: rounding of float32",
        {"snr_db": 100, "top1": 1.0},
        experts_by_median=False,
        random_ids=True,
    ),
    QUANTIZATION: ErrorKind(
        "the codes against the float weights: the cost of the recipe, which held-out text judges",
        {},
        experts_by_median=False,
    ),
}
