"""The text part of a config.json that is of a larger model, which also sees or hears."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from slmkit.errors import CheckpointError
from slmkit.models.config import Config

TEXT, TIED = "text_config", "tie_word_embeddings"
# Keys that published text_configs leave out, by the text's model_type: the defaults of both
# transformers 4 and 5 (Gemma3TextConfig).
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
    }
}
GEMMA3_THETAS = {"rope_theta": 1e6, "rope_local_base_freq": 1e4}  # without rope_parameters


def is_larger(config: Config, known: Collection[str]) -> bool:
    """Whether a config.json is of a larger model, by its ``text_config``."""
    return config.section(TEXT) is not None and config.values.get("model_type") not in known


def text_part(config: Config, known: Collection[str]) -> Config:
    """The keys of the text decoder: ``config`` itself, unless it is of a larger model.

    ``known``: the architectures that there are. Raises CheckpointError for another one.
    """
    section = config.section(TEXT)
    if section is None or not is_larger(config, known):
        return config
    model_type = section.string("model_type")
    if model_type not in known:
        raise CheckpointError(
            f"{config.where}: model_type {config.values.get('model_type')!r} has a text part of "
            f"the model_type {model_type!r}, which is not supported",
            f"supported: {', '.join(sorted(known))}",
        )
    values = {**DEFAULTS.get(model_type, {}), **section.values}
    if model_type == "gemma3_text" and not section.has("rope_parameters"):
        values = {**GEMMA3_THETAS, **values}
    return Config({**values, **_tied(config, section)}, section.where)


def _tied(config: Config, section: Config) -> dict[str, Any]:
    """Whether the head is the embedding: by the text part, else by the whole model."""
    inside, outside = section.values.get(TIED), config.values.get(TIED)
    if inside is not None and outside is not None and inside != outside:
        raise CheckpointError(
            f"{section.where}: {TIED} is {inside!r}, and {config.where}: it is {outside!r}",
            "keep the one that the model was trained with, and remove the other",
        )
    tied = outside if inside is None else inside
    return {} if tied is None else {TIED: tied}
