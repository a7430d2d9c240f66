"""Declaration of the artifact ``mlc``."""

from __future__ import annotations

from slmkit.backend.declaration import Declaration, ErrorKind, Extra
from slmkit.backend.targets import ANDROID, IOS

MLC = Declaration(
    artifact="mlc",
    about="TVM model libraries for phone GPUs, as MLC's runtimes load them",
    module="slmkit_mlc.backend",
    targets=(ANDROID, IOS),
    packages=("apache-tvm", "apache-tvm-ffi"),
    proof_packages=("pyopencl", "intel-opencl-rt", "mlc-llm"),
    extra="mlc",
    errors={
        "gpu": ErrorKind("the program in float16 against the reference", {"snr_db": 50}),
    },
    extras=(
        Extra(
            "opencl",
            "a processor's OpenCL runtime, to execute mlc's kernels",
            ("pyopencl", "intel-opencl-rt"),
        ),
        Extra(
            "mlc_llm",
            "MLC's own compiler, for the option compiler: mlc_llm",
            ("mlc-llm",),
            "as MLC's documentation says",
        ),
    ),
    rank=40,
)
DECLARATIONS = (MLC,)
