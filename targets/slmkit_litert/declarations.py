"""Declaration of the artifact ``litert``."""

from __future__ import annotations

from slmkit.backend.declaration import Declaration, ErrorKind
from slmkit.backend.targets import ANDROID

LITERT = Declaration(
    artifact="litert",
    about="Google's LiteRT and LiteRT-LM on CPUs",
    module="slmkit_litert.backend",
    targets=(ANDROID,),
    packages=("tensorflow-cpu", "ai-edge-litert", "litert-lm-builder"),
    extra="litert",
    errors={
        "shipped": ErrorKind(
            "the artifact with the kernels that it ships with, which round activations to 8 bits, "
            "against the reference",
            {"snr_db": 20},
        ),
        "kernels": ErrorKind(
            "the same against a reference that rounds activations alike: the median position, "
            "since a number on the border of two steps falls either way",
            {"median_db": 80},
        ),
    },
    rank=30,
)
DECLARATIONS = (LITERT,)
