"""How long the stages of a build will take: from earlier builds on this computer, else by rule."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from slmkit.planning.balance import balanced
from slmkit.planning.plan import Plan
from slmkit.system.ledger import StageCost

FILE = "durations.json"  # in the cache: seconds for a billion parameters, by the stage's label
BILLION = 1e9
LEAST = 0.5  # seconds of any stage: the start of a process, mostly
# Seconds for a billion parameters where no earlier build tells, by the label's first word: two
# cores, SmolLM2-135M-Instruct and Gemma 3 270M with all artifacts, November 2026. They only divide
# the bar.
RULE = {
    "float": 70,
    "observe": 30,
    "measure": 150,
    "quantize": 25,
    "calibrate": 5000,
    "emit": 350,
    "prompts": 2,
    "run": 150,
    "reference": 10,
}
OTHER = 80
CACHED = 0.1  # of what a stage took before: one that took less came out of the cache


def expected_stages(plan: Plan) -> list[str]:
    """The labels of a build's stages, as far as they are known before artifacts are written."""
    encodings, artifacts = plan.choice.encodings, plan.choice.artifacts
    schemes = [scheme for each in encodings for scheme in each.schemes.values()]
    measured = plan.choice.recipe.calibration.balance and any(
        balanced(each.schemes) for each in encodings
    )
    return [
        "float model on held-out text",
        "observe activations",
        *(["measure inputs"] if measured else []),
        "quantize",
        *(["calibrate"] if any(each.method == "gptq" for each in schemes) else []),
        *(f"{each.name} codes on held-out text" for each in encodings),
        *(f"emit {name}" for name in artifacts),
        *(f"prompts of {name}" for name in artifacts),
        "reference on floats",
        "reference on codes",
    ]


class Durations:
    """Seconds of stages, kept in a cache's folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._known: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            values = json.loads(self.path.read_text(encoding="utf-8"))
            self._known = {str(key): float(value) for key, value in values.items()}

    def of(self, labels: Iterable[str], parameters: int) -> dict[str, float]:
        """Seconds of each stage, for a model of so many parameters."""
        return {each: max(LEAST, self._rate(each) * parameters / BILLION) for each in labels}

    def of_artifact(self, name: str, parameters: int) -> float:
        """Seconds from when an artifact is begun until it is proved, its runs one by one."""
        runs = [label for label in self._known if label.startswith(f"run {name}, ")]
        return sum(self.of([f"emit {name}", *runs], parameters).values())

    def remember(self, costs: Iterable[StageCost], parameters: int) -> None:
        """Keep what stages took, but for those that only fetched their result from the cache; a
        cache that cannot be written stays as it is."""
        taken: dict[str, float] = {}
        for each in costs:
            taken[each.label] = taken.get(each.label, 0) + each.seconds
        scaled = {label: taken[label] * BILLION / max(1, parameters) for label in taken}
        real = {label: rate for label, rate in scaled.items() if rate > CACHED * self._rate(label)}
        self._keep({**self._known, **real})

    def _keep(self, values: Mapping[str, float]) -> None:
        self._known = dict(values)
        rounded = {label: round(seconds, 3) for label, seconds in sorted(values.items())}
        with contextlib.suppress(OSError):
            written = self.path.with_suffix(".new")
            written.write_text(json.dumps(rounded, indent=1), encoding="utf-8")
            written.replace(self.path)

    def _rate(self, label: str) -> float:
        return self._known.get(label, RULE.get(label.split()[0], OTHER))
