"""The gate of a build: how far codes and artifacts may be from the float model on held-out text."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from slmkit.backend.artifact import STRICT, Artifact, Mode
from slmkit.evaluation.divergence import Divergence
from slmkit.parity.metrics import Number, broken
from slmkit.recipe.bounds import Bound

REFUSED = Bound(max_kl=0.25, top1=0.8)  # beyond: no bundle, unless the recipe has other bounds
WARNED = Bound(max_kl=0.1, top1=0.9)  # beyond: a warning
RANDOM = Bound(snr_db=3)  # on golden prompts: all that can be asked of random weights' codes
SMALL, MEDIUM, LARGE = "small", "medium", "large"


@dataclass(frozen=True, config=STRICT)
class QualityLine:
    """One model on the held-out text: codes in the reference, or an artifact in its runtime."""

    artifact: str  # or the name of an encoding
    mode: str
    runtime: str
    divergence: Divergence
    failures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def price(self) -> str:
        """The recipe's price in a word: within the bound of a warning, of a refusal, or beyond."""
        if broken(self.divergence, REFUSED):
            return LARGE
        return MEDIUM if broken(self.divergence, WARNED) else SMALL


@dataclass(frozen=True, config=STRICT)
class Quality:
    """Codes and artifacts beside the float model on held-out text, which no calibration read."""

    windows: int  # texts, or their beginnings
    tokens: int  # of all windows
    positions: int  # that are scored
    vocabulary: int
    float_perplexity: Number
    margin: Number  # of the token that follows, see ``slmkit.evaluation.chance``
    trained: bool  # else weights are random, as these two show, and nothing was compared
    bound: Bound  # that every line must keep
    lines: tuple[QualityLine, ...] = ()
    not_executed: tuple[str, ...] = ()  # modes that apps run and no line is of, and why
    part_positions: int = (
        0  # of those that artifacts read: what they add to codes is measured there
    )

    @property
    def passed(self) -> bool:
        """Whether every line keeps the bound."""
        return not any(line.failures for line in self.lines)

    @property
    def failures(self) -> list[str]:
        """All broken limits, one sentence each, with artifact and mode."""
        return [
            f"{each.artifact} {each.mode}: {why}" for each in self.lines for why in each.failures
        ]


def gate_bound(asked: Bound) -> Bound:
    """The bound on held-out text. ``asked``: the recipe's bound of ``quantization``, whose limits
    on KL and top-1 stand in place of the default ones."""
    own = {name: getattr(asked, name) for name in ("max_kl", "max_kl_p999", "top1")}
    return REFUSED.model_copy(
        update={key: value for key, value in own.items() if value is not None}
    )


def judged(
    artifact: str, mode: str, runtime: str, divergence: Divergence, bound: Bound
) -> QualityLine:
    """A line with its verdict."""
    failures = broken(divergence, bound)
    warnings = () if failures else broken(divergence, WARNED)
    return QualityLine(artifact, mode, runtime, divergence.rounded(), failures, warnings)


def gate_mode(artifact: Artifact) -> Mode | None:
    """The mode that reads the held-out text: the one that apps run, else the nearest one that is
    quick enough here; None if there is none."""
    modes = {mode.name: mode for mode in artifact.modes}
    wanted = [modes[artifact.default_mode], *reversed(artifact.modes)]
    return next((mode for mode in wanted if mode.prompts is None), None)
