"""Names of stored tensors: other spellings of the names that models use, and tensors left out.

The same weights are saved under several names: with the wrappers of training tools, without the
prefix ``model.``, or as the text part of a model that also sees and hears.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable

from slmkit.errors import CheckpointError

# torch.compile's wrapper at any place; of DataParallel and peft's whole model at the beginning.
WRAPPERS = re.compile(r"(?:(?<=\.)|^)_orig_mod\.|^(?:module\.)+|^base_model\.model\.")
PREFIXES = (  # a beginning of a stored name, and what models have in its place
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.", ""),
    ("model.text_model.", "model."),
    ("text_model.", "model."),
    ("", "model."),
)
LEFT_OUT = {  # tensors that no text decoder uses, by what they are for
    "rotary frequencies, which follow from config.json": (
        r"\.?rotary_emb\.(inv_freq|cos_cached|sin_cached)$"
    ),
    "attention masks": r"\.masked_bias$",
    "multi-token prediction": r"(^|\.)(mtp|mtp_\w+|nextn\w*)\.",
    "vision and audio": (
        r"^(model\.)?(vision_tower|vision_model|vision_encoder|visual|vit|multi_modal_projector"
        r"|mm_projector|audio_tower|audio_model|audio_projector|embed_vision|embed_audio"
        r"|image_newline|connector|patch_merger)(\.|$)"
    ),
}
ADAPTED = re.compile(r"\.lora_[AB]\b|\.lora_(embedding|magnitude)|\.base_layer\.")


def spellings(name: str) -> Iterable[tuple[str, str]]:
    """Names that a stored name may stand for, likeliest first, each with what it had before it."""
    plain = WRAPPERS.sub("", name)
    wrapped = name[: len(name) - len(plain)] if name.endswith(plain) else "_orig_mod."
    yield wrapped, plain
    for prefix, replaced in PREFIXES:
        if plain.startswith(prefix):
            yield wrapped + prefix, replaced + plain.removeprefix(prefix)


def renamed(stored: Iterable[str], expected: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Stored name -> the model's name, where the two differ, and notices about them.

    ``expected``: the model's names. Raises CheckpointError if two tensors are of one name.
    """
    found: dict[str, str] = {}
    counts: Counter[str] = Counter()
    present = set(stored)
    owners = {name: name for name in present & set(expected)}
    for name in sorted(present - set(expected)):
        known = ((prefix, each) for prefix, each in spellings(name) if each in expected)
        prefix, target = next(known, ("", ""))
        if not target:
            continue
        if target in owners:
            raise CheckpointError(
                f"the tensors {owners[target]} and {name} are both the model's {target}",
                "remove the one that does not belong to this model",
            )
        owners[target], found[name] = name, target
        counts[prefix] += 1
    return found, [
        f"{count} tensors are named with {prefix!r} before the model's own names"
        if prefix
        else f"{count} tensors are named without 'model.'"
        for prefix, count in counts.items()
    ]


def left_out(extra: Iterable[str], layers: int, predicting: int) -> tuple[list[str], list[str]]:
    """The tensors among ``extra`` that no one knows, and notices about those left out on purpose.

    ``layers``: of the model; ``predicting``: layers after them that predict further tokens.
    """
    unknown, counts = [], Counter[str]()
    for name in extra:
        plain = WRAPPERS.sub("", name)
        names = [plain, *(each for _, each in spellings(name))]
        kinds = (kind for kind, form in LEFT_OUT.items() if any(re.search(form, n) for n in names))
        kind = "multi-token prediction" if _predicts(plain, layers, predicting) else next(kinds, "")
        if kind:
            counts[kind] += 1
        else:
            unknown.append(name)
    return unknown, [f"left out {count} tensors of {kind}" for kind, count in counts.items()]


def refuse_unknown(unknown: Collection[str]) -> None:
    """Raise CheckpointError for tensors that the architecture does not use."""
    if not unknown:
        return
    adapted = [name for name in unknown if ADAPTED.search(name)]
    first = (adapted or sorted(unknown))[0]
    message = (
        f"the checkpoint holds {len(unknown)} tensors that its architecture does not use, "
        f"first {first}"
    )
    if adapted:
        raise CheckpointError(
            message,
            "they are of an adapter (LoRA) in the same file: save base and adapter apart with "
            "PEFT, and name the adapter's folder with --adapter",
        )
    raise CheckpointError(
        message,
        "config.json and the weights are of different models, or the weights are quantized: "
        "give the original float weights",
    )


def _predicts(name: str, layers: int, predicting: int) -> bool:
    """Whether a tensor is of a layer after the model's own, which predicts further tokens."""
    found = re.match(r"(?:model\.)?layers\.(\d+)\.", name)
    return found is not None and layers <= int(found[1]) < layers + predicting
