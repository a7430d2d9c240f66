"""Declaration of the artifact ``litert``."""

from __future__ import annotations

from slmkit.backend.declaration import (
    Declaration,
    Elsewhere,
    ErrorKind,
    Forecast,
    Runtime,
    this_machine,
)
from slmkit.backend.targets import ANDROID

# The same library without CUDA, where it has wheels; elsewhere tensorflow itself has none of CUDA.
WITHOUT_CUDA = {"linux-x86_64", "win32-AMD64"}
TENSORFLOW = "tensorflow-cpu" if this_machine() in WITHOUT_CUDA else "tensorflow"
LITERT = Declaration(
    artifact="litert",
    about="Google's LiteRT and LiteRT-LM on CPUs",
    module="slmkit_litert.backend",
    targets=(ANDROID,),
    packages=(TENSORFLOW, "ai-edge-litert", "litert-lm-builder"),
    extra="litert",
    errors={
        "shipped": ErrorKind(
            "the artifact with the kernels that it ships with, which round activations to 8 bits, "
            "against the reference",
            {"snr_db": 20, "median_db": 22, "max_kl": 0.05},
        ),
        "kernels": ErrorKind(
            "the same against a reference that rounds activations alike: the best quarter of "
            "positions, since a number on the border of two steps falls either way, and all "
            "positions behind it differ",
            {"quarter_db": 80},
            experts_by_median=False,
            random_ids=True,
        ),
    },
    runtimes=(
        Runtime(
            "pkg:maven/com.google.ai.edge.litertlm/litertlm-android",
            "Apache-2.0",
            "litert-lm-builder",
        ),
        Runtime("pkg:maven/com.google.ai.edge.litert/litert", "Apache-2.0", "ai-edge-litert"),
    ),
    use="slmkit_litert:use.md.jinja",
    no_adapters="LiteRT-LM, which apps run it with, has no public interface for adapters",
    processor="cpu",
    copies=2,  # the mapped file, and what XNNPACK packs of it
    timed="shipped",
    elsewhere=Elsewhere(
        "slmkit_litert:elsewhere.py", files=("*.tflite",), packages=("ai-edge-litert", "numpy")
    ),
    # Measured: at most this on the sample model, SmolLM2-135M and Gemma 3 270M; runs take
    # more, for speed, where their share of the memory has room.
    emitting=Forecast(650 * 10**6, 3.1),
    # A copy in float32, in parts where it has no more.
    running=Forecast(150 * 10**6, 6.6, most=3_000_000_000),
    rank=30,
)
DECLARATIONS = (LITERT,)
