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
        """The same, asked of the median position."""
        median = self.snr_db if self.median_db is None else self.median_db
        return Bound(median_db=median)


class Bounds(BaseModel):
    """The bounds of parity: one per error."""

    model_config = STRICT

    lowering: Bound
    shipped: Bound
    quantization: Bound
    activations: Bound = Bound(snr_db=30)
    emulator: Bound = Bound(snr_db=50)
    float16: Bound = Bound(snr_db=40)
    gpu: Bound = Bound(snr_db=50)
    kernels: Bound = Bound(median_db=80)
    reloaded: Bound = Bound(snr_db=300)  # equal to the last bit

    def by_median(self) -> Bounds:
        """For models that choose experts: the median position keeps what the whole should.

        Where two experts score nearly alike, less precise arithmetic chooses the other one, and
        that token's logits are others. ``lowering`` is of float32 and stays.
        """
        rough = set(type(self).model_fields) - {"lowering", "reloaded", "quantization"}
        return self.model_copy(update={name: getattr(self, name).by_median() for name in rough})
