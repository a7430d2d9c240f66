"""The bounds of parity: the largest accepted difference of an artifact from its reference."""

from __future__ import annotations

from pydantic import BaseModel, Field

from slmkit.recipe.scheme import STRICT


class Bound(BaseModel):
    """Limits of one comparison; a limit of None is not checked."""

    model_config = STRICT

    snr_db: float | None = None
    median_db: float | None = None  # of single positions' SNR
    quarter_db: float | None = None  # of single positions' SNR, that a quarter of them keep
    max_kl: float | None = Field(None, ge=0)  # nats, mean over positions
    max_kl_p999: float | None = Field(None, ge=0)  # nats, the 99.9 % quantile over positions
    top1: float | None = Field(None, ge=0, le=1)  # share of positions

    def by_median(self) -> Bound:
        """The bound as a limit on the median position's SNR alone, for mixtures of experts.

        Where two experts score nearly alike, less precise arithmetic routes to the other one, and
        that token's logits differ.
        """
        median = self.snr_db if self.median_db is None else self.median_db
        return Bound(median_db=median)
