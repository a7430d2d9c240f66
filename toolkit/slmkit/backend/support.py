"""Declarations of what a backend can carry, and the refusals that follow from them.

A backend declares its options, the ops that only it has, and the schemes that it takes; sentences
about them are made here, the same for every backend. What only one backend refuses stays there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slmkit.interpreters.recorder import Model
from slmkit.recipe.scheme import Scheme

# Ops that every backend has. A backend with further ops names them in its ``Support``; the others
# refuse models that need them.
COMMON_OPS = frozenset(
    {
        "embed",
        "linear",
        "rms_norm",
        "split",
        "split_heads",
        "rope",
        "attend",
        "add",
        "mul",
        "scale",
        "sigmoid",
        "tanh",
        "gelu_tanh",
        "silu",
        "route",
        "scale_by_column",
        "add_bias",
        "softplus",
        "conv",
        "scan",
    }
)


@dataclass(frozen=True)
class Option:
    """One key of the recipe's ``artifacts: {NAME: ...}``: a check of its value, and the values in
    words."""

    fits: Callable[[Any], bool]
    expected: str


def one_of(*allowed: Any) -> Option:
    """An option with a few values; true and false are no numbers."""
    types = {type(each) for each in allowed}
    return Option(
        lambda value: type(value) in types and value in allowed,
        f"one of {', '.join(map(str, allowed))}",
    )


def whole_number(least: int, most: int, expected: str) -> Option:
    """An option that is an integer from ``least`` to ``most``."""
    return Option(lambda value: type(value) is int and least <= value <= most, expected)


@dataclass(frozen=True)
class Refusal:
    """A kind of scheme that a backend cannot carry exactly, and the reason with its remedy."""

    refuses: Callable[[Scheme], bool]
    reason: str


def refuse_float16(reason: str) -> Refusal:
    """Weights that stay float16."""
    return Refusal(lambda scheme: scheme.bits is None, reason)


def refuse_palettes(reason: str) -> Refusal:
    """Codes that index a table of numbers."""
    return Refusal(lambda scheme: scheme.encoding == "palette", reason)


def refuse_asymmetric(reason: str) -> Refusal:
    """Codes with zero points."""
    return Refusal(lambda scheme: not scheme.symmetric, reason)


def refuse_groups(bits: int, reason: str) -> Refusal:
    """Groups along the input, with codes of this many bits."""
    return Refusal(
        lambda scheme: scheme.encoding == "group-wise" and scheme.bits == bits,
        reason,
    )


@dataclass(frozen=True)
class Support:
    """The options, ops, schemes and attention that one artifact can hold."""

    artifact: str
    options: Mapping[str, Option]
    more_ops: frozenset[str] = frozenset()  # beyond those that every backend has
    refusals: tuple[Refusal, ...] = ()  # schemes, the first reason that fits is told
    any_table: bool = False  # matrices that are only looked up may have every scheme
    whole_groups: str = ""  # the remedy, where a linear's inputs must be a multiple of its groups
    widest_head: int | None = None  # d
    windows: int | None = None  # different sliding windows that one model may have

    def problems(
        self, model: Model, schemes: Mapping[str, Scheme], options: Mapping[str, Any]
    ) -> list[str]:
        """Everything declared that the model or the recipe asks for in vain, one sentence each."""
        return [
            *self._options(options),
            *self._ops(model),
            *self.schemes(model, schemes),
            *self._attention(model),
        ]

    def refusal(self, scheme: Scheme) -> str:
        """The reason why a matrix of a linear cannot have a scheme; empty if it can."""
        return next((each.reason for each in self.refusals if each.refuses(scheme)), "")

    def schemes(self, model: Model, schemes: Mapping[str, Scheme]) -> list[str]:
        """Weights whose schemes are refused, those with one reason in one sentence."""
        reasons: dict[str, list[str]] = {}
        for name, scheme in schemes.items():
            multiplied = name in model.multiplied
            reason = self.refusal(scheme) if multiplied or not self.any_table else ""
            if multiplied and not reason:
                reason = self._uneven_groups(scheme, model.shapes[name][1])
            if reason:
                reasons.setdefault(f"{scheme}: {reason}", []).append(name)
        return [
            f"{self.artifact} cannot take {summarize_names(names)} in {reason}"
            for reason, names in reasons.items()
        ]

    def _uneven_groups(self, scheme: Scheme, width: int) -> str:
        if self.whole_groups and scheme.group_size and width % scheme.group_size:
            return f"{width} inputs are no multiple of its groups: {self.whole_groups}"
        return ""

    def _options(self, values: Mapping[str, Any]) -> list[str]:
        """Unknown keys and values that do not fit."""
        found = []
        for key, value in values.items():
            at = f"artifacts.{self.artifact}.{key}"
            if key not in self.options:
                known = ", ".join(self.options) or "none"
                found.append(f"{at}: unknown key; known: {known}")
            elif not self.options[key].fits(value):
                found.append(f"{at} is {value!r}, expected {self.options[key].expected}")
        return found

    def _ops(self, model: Model) -> list[str]:
        missing = sorted(set(model.ops) - COMMON_OPS - self.more_ops)
        return [f"{self.artifact} has no form of the op {op}" for op in missing]

    def _attention(self, model: Model) -> list[str]:
        found = []
        windows = {each for each in model.spec.windows if each is not None}
        if self.windows is not None and len(windows) > self.windows:
            found.append(
                f"{self.artifact} takes models with at most {self.windows} sliding window, this "
                f"one has {sorted(windows)}"
            )
        if self.widest_head is not None and model.spec.head_width > self.widest_head:
            found.append(
                f"{self.artifact} takes heads up to {self.widest_head} wide, this model's are "
                f"{model.spec.head_width}"
            )
        return found


def summarize_names(names: Sequence[str]) -> str:
    """Weights by name, those of several layers as one: ``model.layers.*.mlp.up_proj (24)``."""
    patterns: dict[str, list[str]] = {}
    for name in names:
        pattern = re.sub(r"\.layers\.\d+\.", ".layers.*.", name)
        patterns.setdefault(pattern, []).append(name)
    return ", ".join(
        each[0] if len(each) == 1 else f"{pattern} ({len(each)})"
        for pattern, each in patterns.items()
    )
