"""What MLC's engine expects of a library and its folder; ``contract.json`` has it in full."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PARAMS = "packed_params"  # every parameter, in one tuple
KV, RECURRENT = "kv_cache", "rnn_state"  # what a sequence keeps: one of the two, or both
CREATE = {KV: "create_tir_paged_kv_cache", RECURRENT: "create_rnn_state"}
VARIABLE = {KV: "paged_kv_cache", RECURRENT: "rnn_state"}
CACHE_SIZES = (
    "max_batch_size",
    "max_total_seq_len",
    "prefill_chunk_size",
    "page_size",
    "support_sliding_window",
)
STATE_SIZES = ("max_batch_size", "max_history")
PAGE = 16  # tokens of a page of the KV cache: MLC's own size
FUNCTIONS = ("prefill", "decode", "batch_prefill", "batch_decode", "batch_verify")
ALSO = {"extend": "prefill", "batch_extend": "batch_prefill"}  # a further chunk is like the first
METADATA = "_metadata"
CHAT_CONFIG, TENSOR_CACHE = "mlc-chat-config.json", "tensor-cache.json"
LIBRARY_SYMBOL = "__tvm_ffi__library_bin"  # after the library's prefix


@cache
def contract() -> dict[str, Any]:
    """The specification, as data."""
    found: dict[str, Any] = json.loads(
        (Path(__file__).parent / "contract.json").read_text(encoding="utf-8")
    )
    return found


def prefix_of(library: str) -> str:
    """The prefix of a library's symbols: MLC makes it of ``model_lib``, "system://NAME"."""
    return library.replace("-", "_") + "_"
