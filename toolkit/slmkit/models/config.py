"""Typed access to config.json; an error names the key and the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmkit.errors import CheckpointError
from slmkit.system.plain_files import parse_json, read_text

MISSING = object()
# Limits that only a damaged or hostile file exceeds; without them such a file would fill the
# memory with names and tables. Llama 4 was trained for 10 million positions; Qwen3-Next has 512
# experts a layer.
LARGEST = 2**24
MOST_LAYERS_OR_EXPERTS = 512
LONGEST = 1 << 26  # bytes of a JSON file; an index of many shards has some megabytes
POSITIVE = "1e-30 to 1e+30"  # reciprocals and some products stay within float32


class Config:
    """One JSON object of a config file, read by key.

    Each method raises CheckpointError for a missing key or a value of the wrong type.
    """

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def has(self, key: str) -> bool:
        """True if the key is present and not null."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: Any = MISSING, least: int = 1, most: int = LARGEST) -> int:
        """An integer from ``least`` to ``most``; ``default`` only where the format defines one."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(key, value, f"an integer from {least} to {most}")
        return value

    def count(self, key: str, least: int = 1) -> int:
        """A number of layers or experts."""
        return self.integer(key, least=least, most=MOST_LAYERS_OR_EXPERTS)

    def number(self, key: str, default: Any = MISSING, most: float = 1e30) -> float:
        """A number from 1e-30 to ``most``."""
        value = self._get(key, default)
        if not _is_positive(value) or value > most:
            limits = POSITIVE if most == 1e30 else f"at most {most:g}"
            raise self._wrong(key, value, f"a positive number, {limits}")
        return float(value)

    def epsilon(self, key: str) -> float:
        """Of a norm, added to a mean of squares: beyond 1, nothing would be left of its input."""
        return self.number(key, most=1.0)

    def boolean(self, key: str, default: Any = MISSING) -> bool:
        """A boolean."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def string(self, key: str, default: Any = MISSING) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def strings(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._get(key, MISSING)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, "a list of strings")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list of numbers from 1e-30 to 1e30."""
        value = self._get(key, MISSING)
        if not isinstance(value, list) or not all(map(_is_positive, value)):
            raise self._wrong(key, value, f"a list of positive numbers, {POSITIVE}")
        return [float(each) for each in value]

    def integers(self, key: str) -> list[int]:
        """A list of integers of at least 0."""
        value = self._get(key, MISSING)
        if not isinstance(value, list) or not all(
            isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in value
        ):
            raise self._wrong(key, value, "a list of integers of at least 0")
        return value

    def section(self, key: str) -> Config | None:
        """A nested object, or None if it is absent, null or empty."""
        value = self.values.get(key)
        if not value:
            return None
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return Config(value, f"{self.where}: {key}")

    def required_section(self, key: str) -> Config:
        """A nested object with entries; missing or empty is an error."""
        self._get(key, MISSING)
        section = self.section(key)
        if section is None:
            raise self._wrong(key, self.values[key], "an object with entries")
        return section

    def expect(self, key: str, expected: Any, default: Any) -> None:
        """Refuse a model whose ``key`` has another value than the one that slmkit computes.

        ``default``: the format's value of a missing key.
        """
        value = self.values.get(key, default)
        if value != expected:
            raise CheckpointError(
                f"{self.where}: {key} is {value!r}; only {expected!r} is supported here",
                "this model computes something that slmkit's architecture does not; "
                "building it would give a wrong model",
            )

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is MISSING:
            raise CheckpointError(
                f"{self.where}: {key} is missing, and the model's numbers depend on it",
                f'add "{key}" as the model\'s author published it',
            )
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where}: {key} is {value!r}, expected {expected}",
            "compare the file with the one that the model's author published",
        )


def _is_positive(value: Any) -> bool:
    """True for a number in the range that ``POSITIVE`` names."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 1e-30 <= value <= 1e30


def read_json(path: Path) -> Any:
    """Parse a JSON file of a checkpoint.

    Raises CheckpointError, with the file's name, for a missing or unreadable file.
    """
    try:
        return parse_json(read_text(path, LONGEST))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent} has no {path.name}",
            "--model wants a Hugging Face checkpoint folder: config.json, *.safetensors, "
            "tokenizer.json",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as JSON: {error}", "download the file again"
        ) from None


def read_config(path: Path) -> Config:
    """config.json as a ``Config``. Raises CheckpointError."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name} is not a JSON object", "download the file again")
    return Config(values, path.name)
