"""The text that every build measures its codes and artifacts on, and that no calibration reads."""

from __future__ import annotations

from collections.abc import Sequence

from slmkit.checkpoint.folder import Checkpoint, refuse_links
from slmkit.errors import SlmkitError
from slmkit.evaluation.text import HELD_OUT, EvaluationText, evaluation_text
from slmkit.planning.calibration import BUILT_IN

OWN = "heldout.jsonl"  # a checkpoint's own, beside its calibration.jsonl
# Tokens of a window, as calibration reads texts. The beginnings of many texts say more than all of
# a few, but tokens with little before them are harder to keep: of SmolLM2-135M's codes 80.7 % of
# the best tokens stay in windows of 128, 81.4 % in 256, 83.2 % in 512.
WINDOW = 256
# Tokens that artifacts read, of a model of at most PARAMETERS; of one of any size.
PART_TOKENS, LEAST_TOKENS = 1000, 250
# Codes read so many times as much. On 900 tokens, nine texts, those of Gemma 3 270M kept 77.9 % of
# the best tokens, on 4,000 they keep 82.9 %.
WHOLE = 4
PARAMETERS = 300_000_000  # larger models read fewer tokens, so that the time stays about the same
RUN = 48  # tokens in a row that calibration has too, or all of a shorter text: not by chance
BETWEEN = chr(0x10FFFF)  # between texts whose token ids are written as characters


def artifact_tokens(parameters: int) -> int:
    """About how many tokens of held-out text the artifacts of a model read."""
    return max(LEAST_TOKENS, int(PART_TOKENS * min(1.0, PARAMETERS / max(1, parameters))))


def held_out_text(
    checkpoint: Checkpoint,
    calibration: Sequence[Sequence[int]],
    parameters: int,
    context_length: int,
) -> EvaluationText:
    """The checkpoint's own held-out text (``heldout.jsonl``), else the built-in one: evenly chosen
    beginnings, fewer for a large model.

    Raises SlmkitError if ``calibration``, texts as token ids, holds some of it.
    """
    own = checkpoint.folder / OWN
    refuse_links(checkpoint.folder, OWN)
    path = own if own.is_file() else HELD_OUT
    room = min(WINDOW, context_length)
    tokens = WHOLE * artifact_tokens(parameters)
    text = evaluation_text(checkpoint.tokenizer, path, room, tokens, whole=False)
    read = BETWEEN.join(_characters(ids) for ids in calibration)
    for window in text.windows:
        scored = _characters(window.ids[window.first :].tolist())
        starts = range(max(1, len(scored) - RUN + 1))
        if any(scored[at : at + RUN] in read for at in starts):
            said = checkpoint.tokenizer.decode(window.ids[window.first :].tolist())[:60]
            raise SlmkitError(
                f"the calibration text holds text of {path.name}, on which a build is measured: "
                f"{said!r}",
                f"calibrate with other text, such as slmkit's {BUILT_IN.name}",
            )
    return text


def _characters(ids: Sequence[int]) -> str:
    """Token ids as characters, so that a run of them can be found."""
    return "".join(map(chr, ids))
