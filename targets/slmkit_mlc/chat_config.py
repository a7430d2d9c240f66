"""``mlc-chat-config.json``: sizes, tokenizer, and the chat template in MLC's own form.

``slmkit_mlc.conversation`` finds that form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmkit.backend.interface import Job, TokenFacts
from slmkit_mlc.contract import contract
from slmkit_mlc.conversation import conversation
from slmkit_mlc.lowering.definition import Definition

VERSION = "0.1.0"


def chat_config(job: Job, definition: Definition, quantization: str) -> tuple[dict[str, Any], str]:
    """The content of the file, and the fidelity of its chat template (see ``conversation``)."""
    spec, limits, tokens = job.spec, definition.limits, job.tokens
    author = tokens.generation
    sizes = {
        "vocab_size": spec.vocabulary,
        "context_window_size": limits.context,
        "sliding_window_size": -1,
        "prefill_chunk_size": limits.prefill,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
    }
    template, fidelity = conversation(tokens)
    names = contract()["tokenizer_files"]
    values = {
        "version": VERSION,
        "model_type": spec.model_type,
        "quantization": quantization,
        "model_config": {
            **sizes,
            "max_batch_size": limits.batch,
            "hidden_size": spec.width,
            "num_hidden_layers": spec.layers,
            "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.kv_heads,
            "head_dim": spec.head_width,
            "intermediate_size": spec.feed_forward,
            "rms_norm_eps": spec.eps,
            "tie_word_embeddings": spec.tied,
        },
        **sizes,
        "attention_sink_size": -1,
        "active_vocab_size": tokens.active or spec.vocabulary,
        "temperature": author.temperature if author.do_sample else 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": author.repetition_penalty,
        "top_p": author.top_p,
        "tokenizer_files": [path.name for path in tokens.files if path.name in names],
        "tokenizer_info": tokenizer_info(tokens),
        "conv_template": template,
        "pad_token_id": tokens.pad or 0,
        "bos_token_id": tokens.bos,
        "eos_token_id": list(tokens.stop),
        "model_task": "chat",
    }
    return values, fidelity


def tokenizer_info(tokens: TokenFacts) -> dict[str, Any]:
    """How token texts become bytes, in MLC's terms; from the decoder of tokenizer.json, if any."""
    for path in tokens.files:
        if path.name == "tokenizer.json":
            values = json.loads(path.read_text(encoding="utf-8"))
            return _tokenizer_info(values)
    return {}


def _tokenizer_info(values: Mapping[str, Any]) -> dict[str, Any]:
    """``tokenizer_info`` from the content of tokenizer.json."""
    decoder, normalizer = json.dumps(values.get("decoder")), json.dumps(values.get("normalizer"))
    method = "byte_fallback" if "ByteFallback" in decoder else "byte_level"
    return {
        "token_postproc_method": method,
        "prepend_space_in_encode": '"Prepend"' in normalizer,
        "strip_space_in_decode": '"Strip"' in decoder,
    }


def write_chat_config(job: Job, definition: Definition, quantization: str, path: Path) -> str:
    """Write the file; return the fidelity of its chat template (see ``conversation``)."""
    values, fidelity = chat_config(job, definition, quantization)
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False), encoding="utf-8")
    return fidelity
