"""The text that every build measures its codes and artifacts on, and that no calibration reads."""

from __future__ import annotations

from collections.abc import Sequence

from slmkit.checkpoint.folder import Checkpoint, refuse_links
from slmkit.errors import SlmkitError
from slmkit.evaluation.text import HELD_OUT, EvaluationText, evaluation_text
from slmkit.planning.calibration import BUILT_IN

OWN = "heldout.jsonl"  # a checkpoint's own, beside its calibration.jsonl
WINDOW = 128  # tokens of a window: the beginnings of many texts say more than all of a few
TOKENS = 1000  # of all windows, for a model of at most PARAMETERS
LEAST_TOKENS = 250  # for a model of any size
PARAMETERS = 300_000_000  # larger models read fewer tokens, so that the time stays about the same
RUN = 48  # tokens in a row that calibration has too, or all of a shorter text: not by chance
BETWEEN = chr(0x10FFFF)  # between texts whose token ids are written as characters


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
    tokens = int(TOKENS * min(1.0, PARAMETERS / max(1, parameters)))
    room = min(WINDOW, context_length)
    text = evaluation_text(checkpoint.tokenizer, path, room, max(LEAST_TOKENS, tokens), whole=False)
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
