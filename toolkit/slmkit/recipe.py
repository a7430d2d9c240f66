"""Recipes: YAML to a frozen ``Recipe``, with every mistake named by its key."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from slmkit.errors import RecipeError

HERE = Path(__file__).resolve().parent
SHIPPED = next(
    path for path in (HERE / "recipes", HERE.parents[1] / "recipes") if path.is_dir()
)  # in the wheel; in a checkout
STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class Scheme(BaseModel):
    """One weight's treatment: how its numbers become codes."""

    model_config = STRICT

    encoding: Literal["float16", "per-channel", "group-wise"]
    bits: Literal[4, 8] | None = None
    group_size: Literal[32, 64, 128] | None = None
    symmetric: bool = True
    scales: Literal["free", "two-level"] = "free"
    method: Literal["absmax", "mse"] = "mse"

    @model_validator(mode="after")
    def _fits_together(self) -> Scheme:
        quantized = self.encoding != "float16"
        if quantized and self.bits is None:
            raise ValueError(f"bits: needed by encoding {self.encoding}")
        if not quantized and self.bits is not None:
            raise ValueError("bits: encoding float16 has none")
        if (self.encoding == "group-wise") != (self.group_size is not None):
            raise ValueError("group_size: belongs to encoding group-wise, and it needs one")
        if self.scales == "two-level" and not (self.symmetric and self.encoding == "group-wise"):
            raise ValueError("scales: two-level needs encoding group-wise and symmetric: true")
        return self

    def __str__(self) -> str:
        if self.encoding == "float16":
            return "float16"
        group = f" g{self.group_size}" if self.group_size else " per-channel"
        kind = "" if self.symmetric else " asymmetric"
        return f"int{self.bits}{group}{kind}" + (" two-level" if self.scales != "free" else "")


class Rule(BaseModel):
    """Weights by name pattern (and, if given, by layer), and their scheme."""

    model_config = STRICT

    match: tuple[str, ...] = Field(min_length=1, strict=False)
    layers: tuple[int, ...] | None = Field(None, strict=False)
    scheme: Scheme

    def covers(self, name: str, layers: int) -> bool:
        """Whether a weight (``model.layers.3.mlp.up_proj``) is meant; layer -1 is the last."""
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.match):
            return False
        return self.layers is None or _layer(name) in {index % layers for index in self.layers}


class Bound(BaseModel):
    """Limits of one comparison; a missing one is not checked."""

    model_config = STRICT

    snr_db: float | None = None
    max_kl: float | None = Field(None, ge=0)  # nats, mean over positions
    top1: float | None = Field(None, ge=0, le=1)  # share of positions


class Bounds(BaseModel):
    """The bounds of parity: one per error."""

    model_config = STRICT

    lowering: Bound
    shipped: Bound
    quantization: Bound
    activations: Bound = Bound(snr_db=30)
    emulator: Bound = Bound(snr_db=50)
    float16: Bound = Bound(snr_db=40)
    reloaded: Bound = Bound(snr_db=300)  # equal to the last bit


class Recipe(BaseModel):
    """A whole recipe; recipes/README.md explains every key."""

    model_config = STRICT

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    summary: str
    weights: tuple[Rule, ...] = Field(min_length=1, strict=False)
    activations: Literal["float32"] = "float32"
    kv_cache: Literal["float32"] = "float32"
    context_length: int = Field(2048, ge=16)
    prefill_chunk: int = Field(128, ge=1)
    artifacts: dict[str, dict[str, Any]] = Field(default_factory=dict)
    parity: Bounds

    def scheme(self, name: str, layers: int) -> Scheme:
        """The scheme of a weight: the last rule that covers it."""
        for rule in reversed(self.weights):
            if rule.covers(name, layers):
                return rule.scheme
        raise RecipeError(
            f"recipe {self.name}: weights: no rule covers {name}",
            'let the first rule be match: ["*"]',
        )

    def schemes(self, names: Iterable[str], layers: int) -> dict[str, Scheme]:
        """The scheme of each weight; a rule that covers none of them is a mistake."""
        names = list(names)
        for index, rule in enumerate(self.weights):
            _check_layers(self, index, rule, layers)
            if not any(rule.covers(name, layers) for name in names):
                raise RecipeError(
                    f"recipe {self.name}: weights[{index}].match: {', '.join(rule.match)} covers "
                    "no weight of this model",
                    f"its weights are named like {names[0]} and {names[-1]}",
                )
        return {name: self.scheme(name, layers) for name in names}


def _check_layers(recipe: Recipe, index: int, rule: Rule, layers: int) -> None:
    for layer in rule.layers or ():
        if not -layers <= layer < layers:
            raise RecipeError(
                f"recipe {recipe.name}: weights[{index}].layers: the model has no layer {layer}",
                f"it has {layers} layers: 0 to {layers - 1}, or -{layers} to -1 from the end",
            )


def _layer(name: str) -> int | None:
    """The layer's number in ``model.layers.3.mlp.up_proj``; None outside the layers."""
    _, _, after = name.partition(".layers.")
    number = after.partition(".")[0]
    return int(number) if number.isdigit() else None


def shipped_names() -> list[str]:
    """Names of the recipes that come with slmkit."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """A shipped recipe by name, or a YAML file by path. Raises RecipeError with the key."""
    path = SHIPPED / f"{name}.yaml" if name in shipped_names() else Path(name)
    if not path.is_file():
        raise RecipeError(
            f"there is no recipe {name!r}",
            f"shipped: {', '.join(shipped_names())}; or give the path of a YAML file",
        )
    return parse_recipe(path.read_bytes().decode("utf-8", errors="replace"), path.name)


def parse_recipe(text: str, where: str) -> Recipe:
    """Parse and validate YAML text; ``where`` stands in the error."""
    try:
        values = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where} is not YAML: {_flat(error)}", "see recipes/README.md") from None
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where} is not a table of keys", "see recipes/README.md")
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(_sentence(item) for item in error.errors())
        raise RecipeError(
            f"{where}: {wrong}", "every key is explained in recipes/README.md"
        ) from None


def _sentence(item: Any) -> str:
    key = ""
    for part in item["loc"]:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        message = "unknown key"
    return f"{key}: {message}" if key else message


def _flat(error: Exception) -> str:
    return " ".join(str(error).split())


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML in which a key may occur once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} occurs twice", key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)
