"""The codes of a checkpoint under a recipe's schemes: out of the cache, or made now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmkit.activations.input_parts import input_parts
from slmkit.activations.outliers import outlier_channels
from slmkit.checkpoint.folder import Checkpoint
from slmkit.checkpoint.scaled_weights import Source
from slmkit.planning.prepare import Preparation, Schemes
from slmkit.quant.calibrated import Task, calibrate
from slmkit.quant.codes import CodesFile
from slmkit.quant.files import FILE, join
from slmkit.quant.linear_group import FITS, fits_of, fits_to_json
from slmkit.quant.quantize import VERSION, quantize
from slmkit.recipe.scheme import Scheme
from slmkit.system.cache import Cache, key_of
from slmkit.system.progress import Progress


def codes_of(
    checkpoint: Checkpoint,
    schemes: Schemes,
    cache: Cache,
    progress: Progress,
    prepared: Preparation | None = None,
) -> CodesFile:
    """The checkpoint's codes under a recipe: out of the cache, or quantized now.

    ``prepared``: factors on the weights, and the text of ``method: gptq``; None: the weights as
    they are, and none with that method.
    """
    key = _key(checkpoint, schemes, prepared)
    if cache.find("codes", key) is None:
        with cache.making("codes", key) as making:
            _make(checkpoint, schemes, making / FILE, key, cache, progress, prepared)
    else:
        progress.stage("quantize", 1)
        progress.advance(1)
    return CodesFile(cache.entry("codes", key) / FILE)


def calibrated(checkpoint: Checkpoint, schemes: Schemes) -> dict[str, Scheme]:
    """The schemes of the matrices whose codes are chosen on text.

    Not a table of embeddings, nor a head that shares it: its rows are inputs too.
    """
    model = checkpoint.model
    return {
        name: scheme
        for name, scheme in schemes.items()
        if scheme.method == "gptq" and name in model.multiplied - model.looked_up
    }


def _key(checkpoint: Checkpoint, schemes: Schemes, prepared: Preparation | None) -> str:
    """Hash of everything that the codes depend on."""
    facts = {name: scheme.model_dump() for name, scheme in schemes.items()}
    read_as: list[Any] = [checkpoint.shards.fingerprint, checkpoint.spec.model_type]
    factors = prepared.key if prepared else None
    text = prepared.text_key if prepared and calibrated(checkpoint, schemes) else None
    return key_of([*read_as, facts, factors, text, VERSION])


def _make(
    checkpoint: Checkpoint,
    schemes: Schemes,
    path: Path,
    key: str,
    cache: Cache,
    progress: Progress,
    prepared: Preparation | None,
) -> None:
    source: Source = checkpoint.shards
    scale, on_text = 1.0, dict[str, Scheme]()
    if prepared is not None:
        source, scale = prepared.weights(checkpoint, schemes), prepared.stream_scale
        on_text = calibrated(checkpoint, schemes)
    activations = prepared.activations if prepared else None
    inputs = {
        "outliers": outlier_channels(checkpoint.model, schemes, activations),
        "parts": input_parts(checkpoint.model, schemes),
    }
    weights = checkpoint.model.weights
    plain = {
        name: each
        for name, each in weights.items()
        if each.name not in on_text or each.kind == "bias"
    }
    progress.stage("quantize", sum(each.size for each in plain.values() if len(each.shape) == 2))
    if not on_text or prepared is None:
        quantize(source, plain, schemes, path, key, progress.advance, scale, inputs)
        return
    with cache.folder_of_pieces() as folder:
        rest = folder / FILE
        quantize(source, plain, schemes, rest, key, progress.advance, scale, inputs)
        progress.stage("calibrate", sum(weights[f"{name}.weight"].size for name in on_text))
        task = Task(
            source,
            CodesFile(rest),
            checkpoint.spec.scaled(scale),
            on_text,
            prepared.method,
            key,
            cache,
        )
        parts = calibrate(task, prepared.runs, folder, progress.advance)
        fits = [fit for part in parts[1:] for fit in fits_of(part)]
        join(parts, path, key, {FITS: fits_to_json(fits)})
