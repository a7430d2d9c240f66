"""Recipes: YAML to a frozen ``Recipe``, with every mistake named by its key."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmkit.errors import RecipeError
from slmkit.recipe.bounds import Bounds
from slmkit.recipe.scheme import STRICT, Scheme

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = next(
    path for path in (PACKAGE / "recipes", PACKAGE.parents[1] / "recipes") if path.is_dir()
)  # in the wheel; in a checkout


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


class ArtifactOptions(BaseModel):
    """What a recipe says of one artifact: its backend's options, and rules for it alone."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    weights: tuple[Rule, ...] = Field((), strict=False)  # after the recipe's own: the last decides

    @property
    def options(self) -> dict[str, Any]:
        """What the backend itself checks."""
        return dict(self.model_extra or {})


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
    artifacts: dict[str, ArtifactOptions] = Field(default_factory=dict)
    parity: Bounds

    def options(self, artifact: str) -> dict[str, Any]:
        """The backend's options of an artifact."""
        return self.artifacts.get(artifact, ArtifactOptions()).options

    def scheme(self, name: str, layers: int, artifact: str | None = None) -> Scheme:
        """The scheme of a weight, in an artifact: the last rule that covers it."""
        for _, rule in reversed(self._rules(artifact)):
            if rule.covers(name, layers):
                return rule.scheme
        raise RecipeError(
            f"recipe {self.name}: weights: no rule covers {name}",
            'let the first rule be match: ["*"]',
        )

    def schemes(
        self, names: Iterable[str], layers: int, artifact: str | None = None
    ) -> dict[str, Scheme]:
        """The scheme of each weight; a rule that covers none of them is a mistake."""
        names = list(names)
        for key, rule in self._rules(artifact):
            _check_layers(self, key, rule, layers)
            if not any(rule.covers(name, layers) for name in names):
                raise RecipeError(
                    f"recipe {self.name}: {key}.match: {', '.join(rule.match)} covers "
                    "no weight of this model",
                    f"its weights are named like {names[0]} and {names[-1]}",
                )
        return {name: self.scheme(name, layers, artifact) for name in names}

    def _rules(self, artifact: str | None) -> list[tuple[str, Rule]]:
        """The rules that hold for an artifact, with their keys."""
        rules = [(f"weights[{at}]", rule) for at, rule in enumerate(self.weights)]
        own = self.artifacts[artifact].weights if artifact in self.artifacts else ()
        key = f"artifacts.{artifact}.weights"
        return rules + [(f"{key}[{at}]", rule) for at, rule in enumerate(own)]


def _check_layers(recipe: Recipe, key: str, rule: Rule, layers: int) -> None:
    for layer in rule.layers or ():
        if not -layers <= layer < layers:
            raise RecipeError(
                f"recipe {recipe.name}: {key}.layers: the model has no layer {layer}",
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
