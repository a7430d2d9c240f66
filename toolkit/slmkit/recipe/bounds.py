"""The bounds of parity: how far an artifact may be from what it is compared with."""

from __future__ import annotations

from pydantic import BaseModel, Field

from slmkit.recipe.scheme import STRICT


class Bound(BaseModel):
    """Limits of one comparison; a missing one is not checked."""

    model_config = STRICT

    snr_db: float | None = None
    median_db: float | None = None  # of single positions' SNR
    max_kl: float | None = Field(None, ge=0)  # nats, mean over positions
    top1: float | None = Field(None, ge=0, le=1)  # share of positions

    def by_median(self) -> Bound:
        """The same SNR, asked of the median position.

        For models that choose experts: where two experts score nearly alike, less precise
        arithmetic chooses the other one, and that token's logits are others.
        """
        median = self.snr_db if self.median_db is None else self.median_db
        return Bound(median_db=median)
