"""Declarations of the artifacts ``ort`` and ``hexagon``."""

from __future__ import annotations

from slmkit.backend.declaration import (
    CommandOption,
    Declaration,
    Elsewhere,
    ErrorKind,
    Extra,
    Forecast,
    KernelLoss,
    Runtime,
)
from slmkit.backend.targets import ANDROID

RUNTIME = Runtime("pkg:maven/com.microsoft.onnxruntime/onnxruntime-android", "MIT", "onnxruntime")

ORT = Declaration(
    artifact="ort",
    about="ONNX Runtime on CPUs",
    module="slmkit_onnx.ort.backend",
    targets=(ANDROID,),
    packages=("onnx", "onnxruntime"),
    extra="ort",
    errors={
        "shipped": ErrorKind(
            "the artifact with the fast kernels that it ships with, which round activations to "
            "8 bits, against the reference",
            {"snr_db": 20, "median_db": 22, "max_kl": 0.05},
        ),
    },
    extras=(
        Extra(
            "genai",
            "Microsoft's runtime, to run the ort artifact as an app would",
            ("onnxruntime-genai",),
        ),
    ),
    runtimes=(RUNTIME,),
    use="slmkit_onnx.ort:use.md.jinja",
    no_adapters="",
    processor="cpu",
    timed="shipped",
    elsewhere=Elsewhere(
        "slmkit_onnx.ort:elsewhere.py",
        files=("model.onnx", "model.onnx.data"),
        packages=("onnxruntime", "numpy"),
        losses=(
            KernelLoss(
                features=("asimddp",),
                about="on arm64 with dot products ONNX Runtime computes codes of 4 bits by "
                "KleidiAI's kernels, which round a whole row of activations by one scale instead "
                "of blocks of 32 (on the sample model 40.9 dB instead of 43.0)",
                remedy="artifacts: {ort: {kleidiai: false}} in the recipe, or --option "
                "ort.kleidiai=false, leaves them out (mlas.disable_kleidiai); what that costs in "
                "speed was not measured on silicon",
                avoided={"session_options": {"mlas.disable_kleidiai": "1"}},
            ),
        ),
    ),
    # Measured: at most this on the sample model, SmolLM2-135M and Gemma 3 270M.
    emitting=Forecast(60 * 10**6, 1.2),
    running=Forecast(100 * 10**6, 5.6),
    rank=10,
)
HEXAGON = Declaration(
    artifact="hexagon",
    about="Qualcomm's Hexagon NPU",
    module="slmkit_onnx.hexagon.backend",
    targets=(ANDROID,),
    packages=("onnx", "onnxruntime", "onnxruntime-qnn"),
    machines=("linux-x86_64",),  # other wheels of onnxruntime-qnn have no emulator of the chip
    extra="hexagon",
    errors={
        "activations": ErrorKind(
            "integers of 16 bits between the weights against float32",
            {"snr_db": 35, "median_db": 40, "max_kl": 0.001},
        ),
        "emulator": ErrorKind(
            "HTP's emulator against the same integers on the CPU", {"snr_db": 50, "max_kl": 0.001}
        ),
        "reloaded": ErrorKind(
            "a compiled binary against the graph that it was compiled from, equal to the last bit",
            {"snr_db": 300},
            experts_by_median=False,
        ),
    },
    command_options=(
        CommandOption(
            "--soc",
            "soc",
            "Chips to compile hexagon for: sm8550,sm8650 [default: the recipe's].",
            several=True,
        ),
    ),
    runtimes=(RUNTIME, Runtime("pkg:maven/com.qualcomm.qti/onnxruntime-android-qnn", "")),
    use="slmkit_onnx.hexagon:use.md.jinja",
    no_adapters="QNN applies adapters (LoRA v2) that its own converter made for its own model "
    "files, not to context binaries that ONNX Runtime loads",
    float16=True,
    processor="npu",
    untimed="the emulator of the chip computes its results, not its speed",
    # Measured: at most this on the sample model, SmolLM2-135M and Gemma 3 270M, and 2.7 GB at the
    # shape of Llama-3.2-1B: QNN's compiler takes ten times a part's weights, of 150 MB at most.
    emitting=Forecast(200 * 10**6, 15.2, most=2_900_000_000),
    running=Forecast(250 * 10**6, 8.2, most=3_000_000_000),  # in parts where it has no more
    rank=20,
)
DECLARATIONS = (ORT, HEXAGON)
