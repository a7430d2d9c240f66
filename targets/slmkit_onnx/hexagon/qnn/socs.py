"""The table of Qualcomm chips (socs.json) that an artifact may be compiled for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

OLDEST_ARCHITECTURE = 73  # Hexagon V73: see ``refusal``


@dataclass(frozen=True)
class Soc:
    """A chip: QNN's id, the version of its Hexagon, its product name; ``default``: built unless
    others are asked for."""

    name: str
    id: int
    architecture: int
    about: str
    default: bool
    float16: bool = True  # QNN's compiler refuses float16 for the others (error 3110)


def _load() -> dict[str, Soc]:
    path = Path(__file__).with_name("socs.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["socs"]
    return {row["name"]: Soc(**row) for row in rows}


SOCS = _load()
DEFAULT = tuple(soc.name for soc in SOCS.values() if soc.default)


def refusal(name: object, needs_float16: str = "") -> str:
    """The reason why the artifact cannot be compiled for a chip; empty if it can.

    ``needs_float16``: what of it is float16, in words, with a remedy if there is one.
    """
    good = ", ".join(soc.name for soc in SOCS.values() if soc.architecture >= OLDEST_ARCHITECTURE)
    if not isinstance(name, str) or name not in SOCS:
        return f"there is no chip {name!r} in the table; it has {good}"
    soc = SOCS[name]
    if soc.architecture < OLDEST_ARCHITECTURE:
        return (
            f"{name} ({soc.about}) has Hexagon V{soc.architecture}: its compiler accepts every op "
            f"and computes the attention of a decode step wrongly (4 to 17 dB); choose among {good}"
        )
    if needs_float16 and not soc.float16:
        return f"{name} ({soc.about}) has no float16, and {needs_float16}"
    return ""
