"""Declaration of the artifact ``mlc``."""

from __future__ import annotations

from slmkit.backend.declaration import (
    Declaration,
    ErrorKind,
    Extra,
    Forecast,
    Runtime,
    this_machine,
)
from slmkit.backend.targets import ANDROID, IOS

OPENCL = ("pyopencl", "intel-opencl-rt") if this_machine() == "linux-x86_64" else ("pyopencl",)

# Measured: at most this on the sample model, SmolLM2-135M and Gemma 3 270M.
RUNNING = Forecast(650 * 10**6, 2.5)  # of a process that runs the program, or a GPU's kernels
MLC = Declaration(
    artifact="mlc",
    about="TVM model libraries for phone GPUs, as MLC's runtimes load them",
    module="slmkit_mlc.backend",
    targets=(ANDROID, IOS),
    packages=("apache-tvm", "apache-tvm-ffi"),
    proof_packages=("pyopencl", "intel-opencl-rt", "mlc-llm"),
    extra="mlc",
    errors={
        "gpu": ErrorKind(
            "the program in float16 against the reference", {"snr_db": 50, "max_kl": 0.001}
        ),
    },
    extras=(
        Extra(
            "opencl",
            "a processor's OpenCL runtime, to execute mlc's kernels",
            OPENCL,
        ),
        Extra(
            "mlc_llm",
            "MLC's own compiler, for the option compiler: mlc_llm",
            ("mlc-llm",),
            "as MLC's documentation says",
        ),
    ),
    runtimes=(
        Runtime("pkg:github/mlc-ai/mlc-llm", "Apache-2.0"),
        Runtime("pkg:github/apache/tvm", "Apache-2.0"),
    ),
    use="slmkit_mlc:use.md.jinja",
    float16=True,
    no_adapters="MLC LLM's runtime loads no adapters: its library is compiled for the weights "
    "alone",
    processor="gpu",
    untimed="a processor executes the GPU's kernels, to prove their results",
    emitting=Forecast(750 * 10**6, 5.5),
    running=RUNNING,
    rank=40,
)
DECLARATIONS = (MLC,)
