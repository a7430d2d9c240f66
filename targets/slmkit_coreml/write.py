"""Write the ``coreml`` artifact: the package, the embedding file, the facts an app reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slmkit.errors import BackendError
from slmkit.host import Window
from slmkit.target import Artifact, Job, Mode, Tensor
from slmkit_coreml.contract import ALIGNMENT, head_parts
from slmkit_coreml.embedding import write_embedding
from slmkit_coreml.program import build_program, input_shapes, write_package
from slmkit_coreml.residency import inspect, violations

PACKAGE = "model.mlpackage"
PREFILL = 64  # tokens: longer chunks do not help the Neural Engine
MODES = (
    Mode("float32", "the saved package, evaluated without rounding", {"reference": "lowering"}),
    Mode(
        "float16", "every operation's output rounded to float16: an estimate of the device",
        {"reference": "float16"},
    ),
)  # fmt: skip
ABOUT = {
    "embeds": "rows of the embedding file, channels before tokens",
    "cos": "cosine of each token's position times the rope's frequencies, times its magnitude",
    "sin": "sine of the same",
    "mask": "key-major: 0 where a token may look, -40000 elsewhere",
    "past_keys": "cached keys of all layers, oldest first",
    "past_values": "cached values of all layers, oldest first",
    "key_cache": "a state: keys of all layers, slot j for position j",
    "value_cache": "a state: values of all layers, slot j for position j",
    "position": "slot of the first of these tokens",
    "keep": "0 in the slots of these tokens, 1 elsewhere",
    "place": "1 where a token goes to a slot",
    "new_keys": "keys of these tokens, for the host to append",
    "new_values": "values of these tokens, for the host to append",
}
NOT_EXECUTED = "coreml: Core ML itself (macOS only): the saved package ran in the evaluator"


def write(job: Job, folder: Path, version: str, progress: Callable[[int, int], None]) -> Artifact:
    """One program, one conversion, one package."""
    chunk = max(2, min(job.prefill_chunk, PREFILL, job.context_length // 2))
    windows = {
        name: Window(tokens, job.context_length - tokens)
        for name, tokens in (("prefill", chunk), ("decode", 1))
    }
    cache = job.options.get("kv_cache", "io")
    if cache != "io" and job.context_length % ALIGNMENT:
        raise BackendError(
            f"a Core ML state of {job.context_length} tokens is no multiple of {ALIGNMENT}",
            "choose another --context, or kv_cache: io",
        )
    program, ops = build_program(job, windows, cache)
    progress(1, 3)
    write_package(program, folder / PACKAGE)
    progress(2, 3)
    report = inspect(folder / PACKAGE)
    _require(job, report)
    embedding = write_embedding(job.codes, ops.table, folder)
    spec = job.spec
    facts: dict[str, Any] = {
        "package": PACKAGE, "layout": "ane", "kv_cache": cache,
        "context_length": job.context_length, "layers": spec.layers, "kv_heads": spec.kv_heads,
        "head_width": spec.head_width, "vocabulary": spec.vocabulary,
        "embedding": embedding, "logits": len(head_parts(spec.vocabulary)),
        "rope": {
            "frequencies": list(spec.rope.frequencies), "magnitude": spec.rope.magnitude,
        },
        "windows": list(dict.fromkeys(spec.windows)),
        "functions": {
            name: {"tokens": window.tokens, "past": window.past}
            for name, window in windows.items()
        },
        "residency": report,
        "taps": ops.tapped, "not_executed": [NOT_EXECUTED],
    }  # fmt: skip
    inputs, outputs = _inputs(job, windows, cache), _outputs(job, cache)
    form = "Core ML ML Program, iOS 18"
    return Artifact(job.artifact, version, form, MODES, inputs, outputs, facts, "float32")


def _require(job: Job, report: dict[str, Any]) -> None:
    """With ``require: ane``, what a rule forbids is an error."""
    broken = violations(report)
    if job.options.get("require") == "ane" and broken:
        raise BackendError(
            f"the package would leave the Neural Engine: {'; '.join(broken)}",
            "choose a recipe with per-channel weights, or leave require out",
        )


def _inputs(job: Job, windows: dict[str, Window], cache: str) -> tuple[Tensor, ...]:
    shapes = [input_shapes(job.spec, windows[name], cache) for name in ("prefill", "decode")]
    found = []
    for name, shape in shapes[0].items():
        about = ABOUT["mask" if name.startswith("mask") else name]
        dtype = "int32" if name == "position" else "float16"
        found.append(Tensor(name, dtype, _symbolic(shape, shapes[1][name]), about))
    return tuple(found)


def _symbolic(prefill: tuple[int, ...], decode: tuple[int, ...]) -> tuple[int | str, ...]:
    """Dimensions that depend on the function, as text."""
    return tuple(
        one if one == other else "tokens" if other == 1 else "past"
        for one, other in zip(prefill, decode, strict=True)
    )


def _outputs(job: Job, cache: str) -> tuple[Tensor, ...]:
    spec = job.spec
    width = spec.kv_heads * spec.head_width
    logits = [
        Tensor(f"logits_{at}", "float16", (1, end - first, 1, "tokens"),
               f"next-token scores of ids {first} to {end - 1}")
        for at, (first, end) in enumerate(head_parts(spec.vocabulary))
    ]  # fmt: skip
    new = [
        Tensor(name, "float16", (spec.layers, width, 1, "tokens"), ABOUT[name])
        for name in (("new_keys", "new_values") if cache == "io" else ())
    ]
    return (*logits, *new)
