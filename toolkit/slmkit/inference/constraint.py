"""Answers that are JSON of a given form: the library llguidance says which tokens may follow.

It runs in the worker with limits, beside the tokenizer: a schema may come from a stranger.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slmkit.backend.registry import require_extra
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import SlmkitError, UsageError
from slmkit.ops import Floats
from slmkit.system.limited_worker import WORKER, LimitExceeded, Limits

HERE = "slmkit.inference.constraint_worker"
LIMITS = Limits(seconds=20, memory=2 * 10**9)  # a vocabulary of 262,145 tokens needs a tenth
LONGEST = 1 << 20  # characters of a schema


@dataclass(frozen=True)
class JsonConstraint:
    """Only tokens with which an answer can become JSON of a schema."""

    tokenizer: Tokenizer
    schema: str  # JSON

    def narrow(self, logits: Floats, answer: Sequence[int]) -> Floats:
        """Minus infinity for the others. (V,) -> (V,)

        Raises SlmkitError where nothing can follow, which is so after a token that was not allowed.
        """
        allowed = self.allowed(len(logits), answer)
        if not allowed.any():
            raise SlmkitError(
                "no token of the vocabulary continues JSON of this schema",
                "a schema whose texts have characters that the tokenizer lacks cannot be met",
            )
        return np.where(allowed, logits, np.float32(-np.inf))

    def allowed(self, size: int, answer: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether each id can follow. (size,)"""
        library = self.tokenizer.library
        stop = list(self.tokenizer.stop_ids)
        where = [str(library.path.absolute()), library.stamp, stop]
        try:
            mask = WORKER.call(f"{HERE}:allowed", [where, self.schema, list(answer)], LIMITS)
        except LimitExceeded as error:
            raise UsageError(
                f"the JSON schema cannot be followed: {error}", "simplify the schema"
            ) from None
        bits = np.frombuffer(base64.b64decode(mask), np.uint8)
        found = np.unpackbits(bits, bitorder="little")[:size].astype(bool)
        return np.pad(found, (0, size - len(found)))


def json_constraint(tokenizer: Tokenizer, schema: Mapping[str, Any]) -> JsonConstraint:
    """The constraint of a JSON schema.

    Raises UsageError for a schema that the library does not read, or a model without a stop id;
    MissingPackageError without the library.
    """
    require_extra("an answer by a JSON schema", "serve", "llguidance")
    if not tokenizer.stop_ids:
        raise UsageError(
            "the model has no token that ends an answer", "without one JSON would never end"
        )
    text = json.dumps(schema)
    if len(text) > LONGEST:
        raise UsageError(f"the schema has {len(text)} characters", f"at most {LONGEST} are read")
    constraint = JsonConstraint(tokenizer, text)
    constraint.allowed(1, [])
    return constraint
