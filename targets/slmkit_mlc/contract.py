"""Names and sizes that MLC's engine expects of a library and its folder.

``contract.json`` is the complete specification: functions with signatures, metadata, files.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

PARAMS = "packed_params"  # name of the input that is the tuple of all parameters
KV, RECURRENT = "kv_cache", "rnn_state"  # kinds of state of a sequence: a model has one or both
CONSTRUCTORS = {KV: "create_tir_paged_kv_cache", RECURRENT: "create_rnn_state"}  # functions
STATE_INPUTS = {KV: "paged_kv_cache", RECURRENT: "rnn_state"}  # names of inputs
CACHE_SIZES = (  # inputs of the KV cache's constructor
    "max_batch_size",
    "max_total_seq_len",
    "prefill_chunk_size",
    "page_size",
    "support_sliding_window",
)
STATE_SIZES = ("max_batch_size", "max_history")  # inputs of the recurrent state's constructor
PAGE = 16  # tokens of a page of the KV cache: the size that MLC's engine uses
FUNCTIONS = ("prefill", "decode", "batch_prefill", "batch_decode", "batch_verify")
COPIES = {"extend": "prefill", "batch_extend": "batch_prefill"}  # further chunks: the same code
METADATA = "_metadata"
CHAT_CONFIG, TENSOR_CACHE = "mlc-chat-config.json", "tensor-cache.json"
LIBRARY_SYMBOL = "__tvm_ffi__library_bin"  # follows the library's prefix


@cache
def contract() -> dict[str, Any]:
    """The content of ``contract.json``."""
    text = (Path(__file__).parent / "contract.json").read_text(encoding="utf-8")
    values: dict[str, Any] = json.loads(text)
    return values


def prefix_of(library: str) -> str:
    """The prefix of a library's symbols; MLC derives it from ``model_lib``, "system://NAME"."""
    return library.replace("-", "_") + "_"
