"""Declaration of the artifact ``coreml``."""

from __future__ import annotations

from slmkit.backend.declaration import Declaration, Elsewhere, ErrorKind, Forecast
from slmkit.backend.targets import IOS

COREML = Declaration(
    artifact="coreml",
    about="Core ML, laid out for the Apple Neural Engine or the GPU",
    module="slmkit_coreml.backend",
    targets=(IOS,),
    packages=("coremltools",),
    machines=("linux-x86_64", "darwin-arm64", "darwin-x86_64"),
    extra="coreml",
    errors={
        "float16": ErrorKind(
            "every operation's result rounded to float16 against the reference",
            {"snr_db": 40, "max_kl": 0.001},
        ),
    },
    use="slmkit_coreml:use.md.jinja",
    float16=True,
    no_adapters="Core ML loads no weights beside a package: an adapter would be one more function "
    "inside it, compiled with it",
    processor="npu",
    untimed="an evaluator in NumPy stands in for Core ML",
    elsewhere=Elsewhere(
        "slmkit_coreml:elsewhere.py",
        files=("*.mlpackage/*",),
        packages=("coremltools", "numpy"),
        systems=("Darwin",),
        mode="float16",
        untried="running it on a Mac was tested by its commands and never executed before",
    ),
    # Measured: at most this on the sample model, SmolLM2-135M and Gemma 3 270M.
    emitting=Forecast(150 * 10**6, 2.8),
    running=Forecast(120 * 10**6, 7.5),  # weights in float32
    rank=25,
)
DECLARATIONS = (COREML,)
