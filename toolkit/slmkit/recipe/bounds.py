"""The bounds of parity: the largest accepted difference of an artifact from its reference."""

from __future__ import annotations

from pydantic import BaseModel, Field

from slmkit.recipe.scheme import STRICT

MOST_KL = 16.0  # nats: about that of even chances among the tokens of the largest vocabulary


class Bound(BaseModel):
    """Limits of one comparison; a limit of None is not checked.

    A limit that every artifact keeps would prove nothing, and is refused.
    """

    model_config = STRICT

    snr_db: float | None = Field(None, gt=0)  # 0 dB: as much noise as signal
    median_db: float | None = Field(None, gt=0)  # of single positions' SNR
    quarter_db: float | None = Field(None, gt=0)  # of single positions' SNR: a quarter keep it
    max_kl: float | None = Field(None, ge=0, le=MOST_KL)  # nats, mean over positions
    max_kl_p999: float | None = Field(None, ge=0, le=MOST_KL)  # nats, 99.9 % quantile of positions
    top1: float | None = Field(None, gt=0, le=1)  # share of positions

    def by_median(self) -> Bound:
        """The bound as a limit on the median position's SNR alone, for mixtures of experts.

        Where two experts score nearly alike, less precise arithmetic routes to the other one, and
        that token's logits differ.
        """
        median = self.snr_db if self.median_db is None else self.median_db
        return Bound(median_db=median)
