"""The sessions of a model's parts, one after another: of all parts, or of one at a time.

ONNX Runtime holds a copy of a part's weights for each session, and packs another. Where the memory
for all of them is not given, every part is given the same calls, one part after the other, and what
a call hands from part to part is kept meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slmkit.backend.memory import give_back, may_keep
from slmkit.backend.static_runner import Arrays, Calls
from slmkit_onnx.hexagon.contract import NEW
from slmkit_onnx.hexagon.qnn.compile import KINDS
from slmkit_onnx.hexagon.verify.float_weights import FloatWeights

OpenSession = Callable[[str, str], Any]  # (kind, part) -> session
COPIES = 4  # of stored weights: read and packed, for prefill and for decode
MOST = 4 * 10**9  # bytes of them


class Chain:
    """``names``: of the parts; ``tokens``: that the graph of each kind reads; ``stored``: bytes of
    all parts' weights; ``weights``: those that the sessions on this CPU share, if any run there."""

    def __init__(
        self,
        names: Sequence[str],
        tokens: Mapping[str, int],
        open_session: OpenSession,
        stored: int,
        weights: FloatWeights | None = None,
    ) -> None:
        self.names, self.sizes = names, tuple(tokens[kind] for kind in KINDS)
        self._kinds = {tokens[kind]: kind for kind in KINDS}
        self._open, self._weights = open_session, weights
        self._fits = COPIES * stored <= may_keep(MOST)
        self._part: int | None = None  # that is open; None: all are
        self._sessions: dict[int, list[Any]] = {}
        self._calls = Calls()

    @property
    def parts(self) -> int:
        """How many are held one at a time; 1 if all are."""
        return 1 if self._fits else len(self.names)

    def open(self) -> None:
        """Hold all parts."""
        self._open_sessions(self.names)

    def open_part(self, number: int) -> None:
        """Hold one part alone, whose calls begin anew."""
        self._part = number
        self._calls.begin()
        self._open_sessions(self.names[number : number + 1])

    def run(self, tokens: int, inputs: Arrays) -> Arrays:
        """The outputs of the graphs that read so many tokens: of all parts, or of the open one."""
        if not self._sessions:
            self.open()
        if self._part is None:
            return self._run(tokens, inputs)
        handed = self._calls.handed()
        outputs = self._run(tokens, {**inputs, **handed})
        if self._part < len(self.names) - 1:  # the logits of the last one are for nobody else
            made = {name: each for name, each in outputs.items() if not name.startswith(NEW)}
            self._calls.hand(made)
        return outputs

    def _open_sessions(self, names: Sequence[str]) -> None:
        self._sessions.clear()
        if self._weights is not None:
            self._weights.forget()
        give_back()
        for tokens, kind in self._kinds.items():
            self._sessions[tokens] = [self._open(kind, name) for name in names]

    def _run(self, tokens: int, inputs: Arrays) -> Arrays:
        values, found = dict(inputs), Arrays()
        for session in self._sessions[tokens]:
            names = [each.name for each in session.get_outputs()]
            taken = {each.name: values[each.name] for each in session.get_inputs()}
            outputs = dict(zip(names, session.run(names, taken), strict=True))
            values |= outputs
            found |= outputs
        return found
