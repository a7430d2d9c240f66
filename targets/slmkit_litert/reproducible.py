"""The same bytes from litert-lm-builder at each build: it adds a random id and the time of day."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterator

from litert_lm_builder import litertlm_builder as builder

BUILT = "1980-01-01T00:00:00+00:00"  # as in a .task
WRITER = "populate_system_metadata"  # the function of the builder (0.18.1) that adds both


@contextlib.contextmanager
def reproducible(content: bytes) -> Iterator[None]:
    """Meanwhile, files that the builder writes have an id made of ``content``, and a fixed time."""
    digest = hashlib.sha256(content).hexdigest()
    identity = {
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"slmkit:{digest}")),
        "creation_timestamp": BUILT,
    }

    def populate(metadata: list[builder.Metadata]) -> list[builder.Metadata]:
        kept = [each for each in metadata if each.key not in identity]
        text = builder.DType.STRING
        more = [builder.Metadata(key, value, text) for key, value in identity.items()]
        return [*kept, *more]

    original = getattr(builder, WRITER)
    setattr(builder, WRITER, populate)
    try:
        yield
    finally:
        setattr(builder, WRITER, original)
