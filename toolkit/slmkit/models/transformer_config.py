"""Read the keys of config.json that all transformers share."""

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
    """No sliding window in any layer."""
    return None


def read_transformer(config: Config, windows: Windows = no_window, **more: Any) -> Spec:
    """The spec of a transformer.

    ``windows``: the sliding window of each layer; ``more``: fields of Spec that replace the
    default reading. Raises CheckpointError for a missing or inconsistent key.
    """
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
        "eps": lambda: config.epsilon("rms_norm_eps"),
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
    """Name of the op that activates the mlp's gate: silu or gelu_tanh."""
    name = config.string(key, "silu")
    if name not in ACTIVATIONS:
        raise CheckpointError(
            f"{config.where}: {key} is {name!r}; known: {', '.join(ACTIVATIONS)}",
            "this model computes something that slmkit's architecture does not; "
            "building it would give a wrong model",
        )
    return ACTIVATIONS[name]


def layer_windows(config: Config, window: int) -> Windows:
    """``window`` for layers of type sliding_attention in ``layer_types``, none for the others."""
    kinds = _layer_types(config, "layer_types", ("full_attention", "sliding_attention"))
    return lambda layer: window if kinds[layer] == "sliding_attention" else None


def layer_kinds(config: Config, key: str, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """The kind of each layer (``Spec.kinds``); ``kinds``: by the names that config.json uses."""
    return tuple(kinds[name] for name in _layer_types(config, key, kinds))


def _layer_types(config: Config, key: str, known: Collection[str]) -> list[str]:
    types = config.strings(key)
    if not set(types) <= set(known) or len(types) != config.count("num_hidden_layers"):
        raise CheckpointError(
            f"{config.where}: {key} is not a list of {' or '.join(sorted(known))}, one per layer",
            COMPARE,
        )
    return types


def read_head_width(config: Config) -> int:
    """d: ``head_dim``, or the format's default, hidden_size / num_attention_heads."""
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
