"""The rope's facts from the several places of config.json that may hold them.

transformers 4 reads ``rope_theta``, ``rope_scaling`` and ``partial_rotary_factor``. transformers 5
writes all into ``rope_parameters``, and still reads the older keys: ``rope_scaling`` replaces
``rope_parameters``, and a value inside wins over the same key outside, which is the one that
transformers 4 reads. A file in which the two would give different models is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slmkit.errors import CheckpointError
from slmkit.models.config import Config

THETA = "rope_theta"
SHARED = (THETA, "partial_rotary_factor")  # keys that may stand inside and outside
ORIGINAL = "original_max_position_embeddings"
KEEP_ONE = "keep the one that the model was trained with, and remove the other"


def rope_facts(config: Config) -> Config:
    """All facts of the rope in one place: theta, the scaling and the share that rotates.

    Raises CheckpointError for two values of one fact, and for a theta that is lost.
    """
    scaling, parameters = config.section("rope_scaling"), config.section("rope_parameters")
    section = scaling or parameters or Config({}, config.where)
    facts = {**section.values, **_shared(config, section)}
    if scaling and scaling.has(THETA) and not config.has(THETA):
        raise CheckpointError(
            f"{scaling.where}: rope_theta is {scaling.values[THETA]!r}, and none stands outside: "
            "transformers 5 takes this one, transformers 4 a default of its own",
            "write the rope_theta that the model was trained with beside rope_scaling too",
        )
    if scaling and parameters and THETA not in facts and parameters.has(THETA):
        raise CheckpointError(
            f"{config.where}: rope_scaling replaces rope_parameters, in transformers too, and with "
            f"it the rope_theta of {parameters.values[THETA]!r}; no other place has one",
            "write rope_theta into rope_scaling, or the scaling into rope_parameters",
        )
    if THETA not in facts:
        config.number(THETA)  # says what is missing
    _check_kind(section)
    return Config(facts, section.where)


def joined(config: Config, section: Config, inner: str, outer: str) -> Any:
    """The value of ``section``'s key ``inner`` and ``config``'s key ``outer``; None: in neither.

    Raises CheckpointError if both are there and differ.
    """
    values = [
        holder.values[key] for holder, key in ((section, inner), (config, outer)) if holder.has(key)
    ]
    if len(values) == 2 and values[0] != values[1]:
        raise CheckpointError(
            f"{section.where}: {inner} is {values[0]!r}, and {config.where}: {outer} is "
            f"{values[1]!r}: transformers 5 takes the first, transformers 4 the second",
            KEEP_ONE,
        )
    return values[0] if values else None


def original_context(config: Config, facts: Config) -> int:
    """Context length in tokens before a longrope extended it.

    Both versions of transformers take the key beside the section for Phi-3's models, which have
    a default of it, and the one inside the section for others.
    """
    holders = [holder for holder in (facts, config) if holder.has(ORIGINAL)]
    if any(holder.values[ORIGINAL] != holders[0].values[ORIGINAL] for holder in holders):
        raise CheckpointError(
            f"{facts.where}: {ORIGINAL} is {facts.values[ORIGINAL]!r}, and {config.where}: it is "
            f"{config.values[ORIGINAL]!r}",
            KEEP_ONE,
        )
    return (facts if facts.has(ORIGINAL) else config).integer(ORIGINAL, least=2)


def _shared(config: Config, section: Config) -> Mapping[str, Any]:
    found = {key: joined(config, section, key, key) for key in SHARED}
    return {key: value for key, value in found.items() if value is not None}


def _check_kind(section: Config) -> None:
    """Refuse a section whose two names of its kind differ: each version reads another one."""
    older, newer = section.values.get("type"), section.values.get("rope_type")
    if older is not None and newer is not None and older != newer:
        raise CheckpointError(
            f"{section.where}: type is {older!r}, and rope_type is {newer!r}", KEEP_ONE
        )
