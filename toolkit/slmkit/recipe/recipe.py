"""Parse recipes: YAML text to a frozen ``Recipe``; errors name the wrong key."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slmkit.errors import RecipeError
from slmkit.models.config import LARGEST
from slmkit.models.names import layer_of
from slmkit.recipe.bounds import Bound
from slmkit.recipe.calibration import Calibration
from slmkit.recipe.scheme import STRICT, Scheme

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = next(
    path for path in (PACKAGE / "recipes", PACKAGE.parents[1] / "recipes") if path.is_dir()
)  # in the wheel; in a checkout
LONGEST_CHUNK = 1 << 16  # tokens of a prompt at once: no phone has memory for more
KEYS = "every key is explained in recipes/README.md"
M = TypeVar("M", bound=BaseModel)


class Rule(BaseModel):
    """A scheme for the weights whose names match a pattern, in all layers or in some."""

    model_config = STRICT

    match: tuple[str, ...] = Field(min_length=1, strict=False)
    layers: tuple[int, ...] | None = Field(None, strict=False)
    scheme: Scheme
    optional: bool = False  # it may cover no weight: a model may have none of these names

    def covers(self, name: str, layers: int) -> bool:
        """True if the rule applies to weight ``name``, such as ``model.layers.3.mlp.up_proj``.

        ``layers``: number of layers of the model. A negative index in the rule counts from the
        end: -1 is the last layer.
        """
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.match):
            return False
        return self.layers is None or layer_of(name) in {index % layers for index in self.layers}


class ArtifactOptions(BaseModel):
    """A recipe's settings for one artifact: options of its backend, and rules for it alone."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    weights: tuple[Rule, ...] = Field((), strict=False)  # applied after Recipe.weights

    @property
    def options(self) -> dict[str, Any]:
        """Options of the backend, which validates them itself."""
        return dict(self.model_extra or {})


class Recipe(BaseModel):
    """A recipe: one scheme per weight, and the bounds of parity. See recipes/README.md."""

    model_config = STRICT

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    summary: str
    weights: tuple[Rule, ...] = Field(min_length=1, strict=False)
    context_length: int = Field(2048, ge=16, le=LARGEST)
    prefill_chunk: int = Field(128, ge=1, le=LONGEST_CHUNK)
    smoothquant: float | None = Field(None, ge=0, le=1)  # alpha, the migration strength; None: off
    # Code bits per weight of linears, on average: 8 bits where they pay most; None: no budget.
    bits_budget: float | None = Field(None, gt=3, le=8)
    calibration: Calibration = Calibration()
    artifacts: dict[str, ArtifactOptions] = Field(default_factory=dict)
    parity: dict[str, Bound] = Field(default_factory=dict)  # by error kind

    @classmethod
    def load(cls, name: str | Path) -> Recipe:
        """Load a shipped recipe by name, or a YAML file by path. Raises RecipeError."""
        return load_recipe(str(name))

    def override(self, match: str, **changes: Any) -> Recipe:
        """A recipe with another scheme for the weights that ``match``, in every artifact.

        ``match``: a name pattern; ``changes``: keys of a scheme. With ``encoding`` they are the
        whole scheme; without, they change the recipe's scheme for the pattern, where 8 bits become
        per-channel, the form that every artifact can carry. Raises RecipeError.
        """
        values = dict(changes)
        if "encoding" not in values and values.get("bits") == 8:
            values["encoding"] = "per-channel"
        if "encoding" not in values:
            values = {**self.scheme(match, 1).model_dump(), **values}
        rule = _validate(Rule, {"match": (match,), "scheme": values}, f"override {match}")
        artifacts = {
            name: ArtifactOptions(weights=(*each.weights, rule), **each.options)
            for name, each in self.artifacts.items()
            if each.weights
        }
        return self.model_copy(
            update={
                "weights": (*self.weights, rule),
                "artifacts": {**self.artifacts, **artifacts},
            }
        )

    def with_options(self, artifact: str, options: Mapping[str, Any]) -> Recipe:
        """A recipe with changed backend options of one artifact."""
        old = self.artifacts.get(artifact, ArtifactOptions())
        new = ArtifactOptions(weights=old.weights, **{**old.options, **options})
        return self.model_copy(update={"artifacts": {**self.artifacts, artifact: new}})

    def options(self, artifact: str) -> dict[str, Any]:
        """Backend options for ``artifact``; empty if the recipe sets none."""
        return self.artifacts.get(artifact, ArtifactOptions()).options

    def scheme(self, name: str, layers: int, artifact: str | None = None) -> Scheme:
        """The scheme of weight ``name``: that of the last rule that covers it.

        Raises RecipeError if no rule covers it.
        """
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
        """Scheme by weight name.

        Raises RecipeError if a rule covers none of ``names`` or a weight has no rule.
        """
        names = list(names)
        for key, rule in self._rules(artifact):
            _check_layers(self, key, rule, layers)
            if not rule.optional and not any(rule.covers(name, layers) for name in names):
                raise RecipeError(
                    f"recipe {self.name}: {key}.match: {', '.join(rule.match)} covers "
                    "no weight of this model",
                    f"its weights are named like {names[0]} and {names[-1]}",
                )
        return {name: self.scheme(name, layers, artifact) for name in names}

    def _rules(self, artifact: str | None) -> list[tuple[str, Rule]]:
        """(Key in the recipe, rule) of every rule for ``artifact``, in order of application."""
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


def shipped_names() -> list[str]:
    """Names of the recipes that are part of slmkit."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Load a shipped recipe by name, or a YAML file by path.

    Raises RecipeError, with the key, for a missing or invalid file.
    """
    path = SHIPPED / f"{name}.yaml" if name in shipped_names() else Path(name)
    if not path.is_file():
        raise RecipeError(
            f"there is no recipe {name!r}",
            f"shipped: {', '.join(shipped_names())}; or give the path of a YAML file",
        )
    return _validate(Recipe, _with_base(path, ()), path.name)


def parse_recipe(text: str, where: str) -> Recipe:
    """Parse YAML text without ``extends``. Raises RecipeError, which starts with ``where``."""
    return _validate(Recipe, _parse_yaml(text, where), where)


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors.

    A file with ``extends`` requires ``name`` and ``summary`` only.
    """
    schema = Recipe.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "a shipped recipe, or a path beside this file, whose keys this one changes",
    }
    schema["required"] = ["name", "summary"]
    schema["anyOf"] = [{"required": ["weights"]}, {"required": ["extends"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _with_base(path: Path, through: tuple[Path, ...]) -> dict[str, Any]:
    """The keys of a recipe file, merged into those of the recipe that it extends.

    ``through``: the files that lead here by ``extends``, to refuse a cycle.
    """
    text = path.read_bytes().decode("utf-8", errors="replace")
    values = _parse_yaml(text, path.name)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"{path.name}: extends: expected a recipe's name or path", KEYS)
    base_path = SHIPPED / f"{base}.yaml" if base in shipped_names() else path.parent / base
    if not base_path.is_file():
        raise RecipeError(
            f"{path.name}: extends: there is no recipe {base!r}",
            f"shipped: {', '.join(shipped_names())}; or a path beside {path.name}",
        )
    through = (*through, path.resolve())
    if base_path.resolve() in through:
        raise RecipeError(f"{path.name}: extends: {base} extends this recipe itself", KEYS)
    return _merge(_with_base(base_path, through), values)


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``: rules are appended, tables merged by key, other values replaced."""
    result = dict(base)
    for key, value in own.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = _merge(old, value)
        elif key == "weights" and isinstance(old, list) and isinstance(value, list):
            result[key] = [*old, *value]
        else:
            result[key] = value
    return result


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse YAML text to a table of keys. Raises RecipeError."""
    try:
        values = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where} is not YAML: {_flat(error)}", "see recipes/README.md") from None
    if not isinstance(values, Mapping):
        raise RecipeError(f"{where} is not a table of keys", "see recipes/README.md")
    return dict(values)


def _validate(kind: type[M], values: Mapping[str, Any], where: str) -> M:
    """A ``kind`` of these values. Raises RecipeError, which names every wrong key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(_sentence(item) for item in error.errors())
        raise RecipeError(f"{where}: {wrong}", KEYS) from None


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
    """A SafeLoader that refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is a list or a table", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} occurs twice", key.start_mark
                )
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)
