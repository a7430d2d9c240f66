"""What every model of attention layers says in config.json, under the same keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from slmkit.errors import CheckpointError
from slmkit.models.config import Config
from slmkit.models.rope import read_rope
from slmkit.models.spec import Spec

Windows = Callable[[int], int | None]  # layer -> sliding window
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
COMPARE = "compare the file with the one that the model's author published"


def no_window(layer: int) -> int | None:
    """Every token sees all before it."""
    return None


def read_transformer(config: Config, windows: Windows = no_window, **more: Any) -> Spec:
    """The spec of a transformer; ``more`` are the facts in which its family differs."""
    layers, width = config.count("num_hidden_layers"), config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise CheckpointError(
            f"{config.where}: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}",
            COMPARE,
        )
    head_width = read_head_width(config)
    defaults: dict[str, Callable[[], Any]] = {
        "activation": lambda: activation(config),
        "eps": lambda: config.number("rms_norm_eps"),
        "feed_forward": lambda: config.integer("intermediate_size"),
        "kinds": lambda: ("attention",) * layers,
        "rope": lambda: read_rope(config, head_width),
        "tied": lambda: config.boolean("tie_word_embeddings"),
        **dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias", "qk_norm"), lambda: False),
    }
    facts = {key: read() for key, read in defaults.items() if key not in more}
    return Spec(
        model_type=config.string("model_type"),
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        vocabulary=config.integer("vocab_size"),
        windows=tuple(windows(layer) for layer in range(layers)),
        trained_context=config.integer("max_position_embeddings"),
        **facts,
        **more,
    )


def activation(config: Config, key: str = "hidden_act") -> str:
    """The activation of the feed-forward's gate, in the vocabulary's word."""
    said = config.string(key, "silu")
    if said not in ACTIVATIONS:
        raise CheckpointError(
            f"{config.where}: {key} is {said!r}; known: {', '.join(ACTIVATIONS)}",
            "this model computes something that slmkit's architecture does not; "
            "building it would give a wrong model",
        )
    return ACTIVATIONS[said]


def layer_windows(config: Config, window: int) -> Windows:
    """The window of each layer whose kind in ``layer_types`` is sliding_attention."""
    kinds = _layer_words(config, "layer_types", ("full_attention", "sliding_attention"))
    return lambda layer: window if kinds[layer] == "sliding_attention" else None


def layer_kinds(config: Config, key: str, meaning: Mapping[str, str]) -> tuple[str, ...]:
    """What mixes tokens in each layer, out of the config's words for it."""
    return tuple(meaning[word] for word in _layer_words(config, key, meaning))


def _layer_words(config: Config, key: str, known: Collection[str]) -> list[str]:
    words = config.strings(key)
    if not set(words) <= set(known) or len(words) != config.count("num_hidden_layers"):
        raise CheckpointError(
            f"{config.where}: {key} is not a list of {' or '.join(sorted(known))}, one per layer",
            COMPARE,
        )
    return words


def read_head_width(config: Config) -> int:
    """``head_dim``, or by the format's own default hidden_size / num_attention_heads."""
    if config.has("head_dim"):
        return config.integer("head_dim")
    width, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if width % heads:
        raise CheckpointError(
            f"{config.where}: hidden_size {width} is not a multiple of num_attention_heads {heads},"
            " and head_dim is missing",
            "add head_dim as the model's author published it",
        )
    return width // heads
