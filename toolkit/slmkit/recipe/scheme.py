"""Schemes: how one weight is quantized (encoding, bits, groups, method)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

BITS: dict[str, tuple[int | None, ...]] = {
    "float16": (None,),
    "per-channel": (4, 8),
    "group-wise": (4, 8),
    "palette": (3, 4, 6),
}
SCALES = {"free": "", "two-level": " two-level", "float16": " float16 scales"}
STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class Scheme(BaseModel):
    """How one weight is quantized; validation refuses combinations that do not exist."""

    model_config = STRICT

    encoding: Literal["float16", "per-channel", "group-wise", "palette"]
    bits: Literal[3, 4, 6, 8] | None = None
    group_size: Literal[32, 64, 128] | None = None  # inputs that share a scale
    group_rows: Literal[4, 8, 16, 32] | None = None  # output rows that share a palette
    symmetric: bool = True
    # free: 8 significant bits; float16: 11, as other tools write them
    scales: Literal["free", "two-level", "float16"] = "free"
    # imported: the codes that the checkpoint brings; planning writes it, no recipe needs to
    method: Literal["absmax", "mse", "gptq", "imported"] = "mse"

    @model_validator(mode="after")
    def _fits_together(self) -> Scheme:
        bits = BITS[self.encoding]
        if self.bits not in bits:
            *first, last = map(str, bits)
            known = f"{', '.join(first)} or {last}" if first else last
            raise ValueError(
                f"bits: encoding {self.encoding} "
                + (f"needs {known}" if bits != (None,) else "has none")
            )
        for key, encoding in (("group_size", "group-wise"), ("group_rows", "palette")):
            if (self.encoding == encoding) != (getattr(self, key) is not None):
                raise ValueError(f"{key}: belongs to encoding {encoding}, and it needs one")
        if self.scales == "two-level" and not (self.symmetric and self.encoding == "group-wise"):
            raise ValueError("scales: two-level needs encoding group-wise and symmetric: true")
        if self.scales == "float16" and self.encoding not in ("group-wise", "per-channel"):
            raise ValueError("scales: float16 needs encoding group-wise or per-channel")
        if self.encoding == "palette" and not (self.symmetric and self.method != "absmax"):
            raise ValueError("encoding palette has no symmetric, and its method is mse or gptq")
        if self.method == "imported" and self.encoding not in ("group-wise", "per-channel"):
            raise ValueError("method: imported is of codes with scales")
        if self.encoding == "float16" and self.method == "gptq":
            raise ValueError("method: gptq chooses codes, which encoding float16 has not")
        return self

    @property
    def without_text(self) -> Scheme:
        """The scheme with codes that need no calibration text: rounded to nearest."""
        return self.model_copy(update={"method": "mse"}) if self.method == "gptq" else self

    def __str__(self) -> str:
        if self.encoding == "float16":
            return "float16"
        if self.encoding == "palette":
            return f"lut{self.bits} g{self.group_rows}"
        group = f" g{self.group_size}" if self.group_size else " per-channel"
        kind = "" if self.symmetric else " asymmetric"
        return f"int{self.bits}{group}{kind}" + SCALES[self.scales]
