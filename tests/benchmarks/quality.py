"""Codes beside their peers: KL, top-1 and perplexity of recipes, of each step of calibration, and
of llama.cpp's formats at their own sizes, all judged by the reference on one text in one run.

python tests/benchmarks/quality.py MODEL [--text FILE] [--tokens 2048] [--rows "NAME;..."] \
    [--calibration-tokens N]

MODEL is a checkpoint. The text is the built-in held-out corpus, or a file. Bits are those of a
linear's weight with its scales, on average; every row has its embedding and lm_head in 8 bits.
Q4_0 and Q4_1 are the quantizers of the package gguf; IQ4_NL is llama.cpp's own, out of the package
xllamacpp, which brings it compiled. Time and memory are of this process: give one --rows for exact
peaks. With --calibration-tokens all calibrated rows read so many tokens of text, in place of the
recipe's.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from rich.console import Console
from rich.table import Table

from slmkit.activations.observe import calibration_runs
from slmkit.checkpoint.folder import Checkpoint, open_checkpoint
from slmkit.evaluation.sources import reference_logits, side_by_side
from slmkit.evaluation.text import EvaluationText, evaluation_text
from slmkit.interpreters.recorder import Weight
from slmkit.interpreters.reference import Weights
from slmkit.ops import Floats
from slmkit.planning.calibration import calibration_texts
from slmkit.planning.codes import calibrated, codes_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.prepare import prepare
from slmkit.quant.files import stored_bytes
from slmkit.recipe.recipe import load_recipe
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache, default_folder
from slmkit.system.progress import Silent
from slmkit.workflows.sensitivity import with_budget

WINDOW = 256  # tokens
EVEN = Scheme(encoding="group-wise", bits=4, group_size=32, scales="two-level", method="gptq")
UNEVEN = Scheme(encoding="group-wise", bits=4, group_size=32, symmetric=False, method="gptq")


@dataclass(frozen=True)
class Case:
    """One row that slmkit makes."""

    recipe: str = "int4"
    artifact: str | None = None
    scheme: Scheme | None = None  # of linears in 4 bits, in place of the recipe's
    everywhere: bool = False  # of the others, too
    method: str | None = None
    numbers: Mapping[str, Any] | None = None  # of the recipe's ``calibration``
    changes: Mapping[str, Any] | None = None  # of the recipe


CASES = {
    "int8": Case("int8"),
    "int4, rounded": Case(method="mse"),
    "int4, rounded, not smoothed": Case(method="mse", changes={"smoothquant": None}),
    "int4, GPTQ": Case(numbers={"target": "own", "sweeps": 0}),
    "int4, GPTQ, float target": Case(numbers={"sweeps": 0}),
    "int4": Case(),
    "int4, no linear in 8 bits": Case(scheme=EVEN, everywhere=True),
    "int4, bits_budget 4.6": Case(changes={"bits_budget": 4.6}),
    "int4, asymmetric": Case(scheme=UNEVEN),
    "palettes, rounded": Case(artifact="coreml", method="mse"),
    "palettes": Case(artifact="coreml"),
    "palettes of 3 bits": Case(
        artifact="coreml",
        scheme=Scheme(encoding="palette", bits=3, group_rows=16, method="gptq"),
    ),
}
PEERS = ("Q4_0", "Q4_1", "IQ4_NL")


class Peer:
    """A checkpoint whose linears are in one of llama.cpp's formats, the embedding in Q8_0."""

    def __init__(self, checkpoint: Checkpoint, kind: str) -> None:
        self.shards, self.model = checkpoint.shards, checkpoint.model
        self.kind = gguf.GGMLQuantizationType[kind]

    def vector(self, tensor: str) -> Floats:
        """A norm's weight or a bias, (width,)."""
        return self.shards.vector(tensor)

    def rows(self, tensor: str, rows: Any) -> Floats:
        """``rows`` of a matrix, quantized and dequantized."""
        return self._through(tensor, self.shards.rows(tensor, rows))

    def blocks(self, tensor: str) -> Iterator[tuple[int, Floats]]:
        """A matrix in blocks of rows."""
        for first, block in self.shards.blocks(tensor):
            yield first, self._through(tensor, block)

    def _through(self, tensor: str, floats: Floats) -> Floats:
        outer = tensor.removesuffix(".weight") in self.model.looked_up or "lm_head" in tensor
        kind = gguf.GGMLQuantizationType.Q8_0 if outer else self.kind
        if kind == gguf.GGMLQuantizationType.IQ4_NL:
            stored = _by_llama_cpp(floats, kind)
        else:
            stored = gguf.quants.quantize(np.ascontiguousarray(floats), kind)
        result: Floats = gguf.quants.dequantize(stored, kind).astype(np.float32)
        return result


def _by_llama_cpp(floats: Floats, kind: gguf.GGMLQuantizationType) -> Any:
    """llama.cpp's own quantizer, without an importance matrix."""
    import xllamacpp

    (compiled,) = Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(compiled))
    rows, width = floats.shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    stored = np.empty((rows, width // block * size), np.uint8)
    source = np.ascontiguousarray(floats, np.float32)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk(
        ctypes.c_int(kind.value),
        source.ctypes.data_as(ctypes.c_void_p),
        stored.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0),
        ctypes.c_int64(rows),
        ctypes.c_int64(width),
        None,
    )
    return stored


def made(
    case: Case, checkpoint: Checkpoint, cache: Cache, tokens: int | None
) -> tuple[Weights, float, float]:
    """The codes of a case, the stream's scale that they hold, and bits per weight of linears."""
    recipe = load_recipe(case.recipe).model_copy(update=dict(case.changes or {}))
    limit = {"tokens": tokens} if tokens else {}
    numbers = recipe.calibration.model_copy(update={**limit, **(case.numbers or {})})
    recipe = recipe.model_copy(update={"calibration": numbers})
    texts = calibration_texts(checkpoint, None)
    recipe = with_budget(checkpoint, recipe, texts, cache, Silent())
    schemes = dict(matrix_schemes(checkpoint.model, recipe, case.artifact))
    for name, scheme in schemes.items():
        if name in checkpoint.model.multiplied - checkpoint.model.looked_up:
            own = case.scheme if case.scheme and (case.everywhere or scheme.bits == 4) else scheme
            schemes[name] = own.model_copy(update={"method": case.method} if case.method else {})
    on_text = bool(calibrated(checkpoint, schemes))
    runs = calibration_runs(texts, tokens=numbers.tokens) if on_text else calibration_runs(texts)
    prepared = prepare(checkpoint, recipe, runs, cache, Silent())
    codes = codes_of(checkpoint, schemes, cache, Silent(), prepared)
    return (
        codes,
        codes.stream_scale,
        _bits(checkpoint, lambda each: stored_bytes(each, schemes[each.name])),
    )


def _bits(checkpoint: Checkpoint, size: Callable[[Weight], float]) -> float:
    model = checkpoint.model
    linears = [
        each
        for each in model.weights.values()
        if each.name in model.multiplied - model.looked_up and len(each.shape) == 2
        if each.name != "lm_head"
    ]
    return 8 * sum(map(size, linears)) / sum(each.size for each in linears)


def main() -> None:
    """Print a row for each case and peer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--calibration-tokens", type=int)
    parser.add_argument("--rows", help="only these, separated by semicolons")
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    checkpoint = open_checkpoint(asked.model).at_context(WINDOW)
    text = evaluation_text(checkpoint.tokenizer, asked.text, WINDOW, asked.tokens)
    names = asked.rows.split(";") if asked.rows else [*CASES, *PEERS]
    cache = Cache(asked.cache or default_folder())
    console = Console(width=120)
    table = Table("", "bits", "KL", "KL 99.9 %", "top-1", "perplexity", "float's", "s", "GB")
    for name in names:
        start = time.perf_counter()
        weights, scale, bits = _weights(name, checkpoint, cache, asked.calibration_tokens)
        took = time.perf_counter() - start
        table.add_row(
            name,
            f"{bits:.2f}",
            *_measured(checkpoint, weights, scale, text),
            f"{took:.0f}",
            f"{_peak():.2f}",
        )
        console.print(table)
    console.print(f"{checkpoint.name}: {text.positions} positions of {text.tokens} tokens")


def _weights(
    name: str, checkpoint: Checkpoint, cache: Cache, tokens: int | None
) -> tuple[Weights, float, float]:
    if name in CASES:
        return made(CASES[name], checkpoint, cache, tokens)
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    return Peer(checkpoint, name), 1.0, 8 * size / block


def _measured(
    checkpoint: Checkpoint, weights: Weights, scale: float, text: EvaluationText
) -> list[str]:
    floats = reference_logits(checkpoint.shards, checkpoint.spec, text.sequences)
    got = reference_logits(weights, checkpoint.spec.scaled(scale), text.sequences)
    found = side_by_side(floats, got, text)
    return [
        f"{found.kl:.4f}",
        f"{found.kl_p999:.2f}",
        f"{found.top1:.1%}",
        f"{found.perplexity:.2f}",
        f"{found.float_perplexity:.2f}",
    ]


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
