"""Files that onnxruntime-genai needs beside the graph: its config and the tokenizer's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmkit.backend.interface import Job, Model
from slmkit_onnx.genai import search_options, token_ids, write_config
from slmkit_onnx.ort.contract import cache_names, state_names
from slmkit_onnx.ort.lowering.attention import supports_fused_attention
from slmkit_onnx.ort.options import session_entries
from slmkit_onnx.prompts import write_tokenizer_files

# Decoder types of onnxruntime-genai 0.18; it runs them all alike and refuses others.
KNOWN = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "granite",
        "granitemoehybrid",
        "lfm2",
        "llama",
        "mistral",
        "phi3",
        "qwen2",
        "qwen3",
    }
)
ANY = "llama"  # for architectures that it does not know
RECURRENT = {"conv": "conv", "scan": "recurrent"}  # its names of recurrent states


def write_genai(job: Job, folder: Path, model: str) -> None:
    """Write genai_config.json and copy the tokenizer's files."""
    write_config(genai_config(job, model), folder)
    write_tokenizer_files(job.tokens, folder, job.spec.vocabulary)


def genai_config(job: Job, model: str) -> dict[str, Any]:
    """The config of onnxruntime-genai 0.18 for a decoder with its own KV cache and states."""
    return {
        "model": {
            **token_ids(job),
            "type": job.spec.model_type if job.spec.model_type in KNOWN else ANY,
            "vocab_size": job.spec.vocabulary,
            "context_length": job.context_length,
            "decoder": _decoder(job, model),
        },
        "search": {
            **search_options(job.tokens),
            "max_length": job.context_length,
            "chunk_size": job.prefill_chunk,  # bounds the memory of a long prompt's logits
            "past_present_share_buffer": supports_fused_attention(job.spec),
        },
    }


def _decoder(job: Job, file: str) -> dict[str, Any]:
    model, spec, (past, present) = job.model, job.spec, _names(job.model)
    return {
        "session_options": {
            "log_id": "onnxruntime-genai",
            "provider_options": [],
            **session_entries(job.options),
        },
        "filename": file,
        "head_size": spec.head_width,
        "hidden_size": spec.width,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "num_hidden_layers": spec.layers,
        "inputs": {"input_ids": "input_ids", **past},
        "outputs": {"logits": "logits", **present},
        **_layers(model),
    }


def _names(model: Model) -> tuple[dict[str, str], dict[str, str]]:
    """Name patterns of the inputs and outputs of all layers, %d for the layer's number."""
    inputs, outputs = {}, {}
    if model.attention_layers:
        inputs["attention_mask"] = "attention_mask"
    for kind in sorted({state.kind for state in model.states}):
        past, present = state_names(kind, "%d")
        inputs[f"past_{RECURRENT[kind]}_names"] = past
        outputs[f"present_{RECURRENT[kind]}_names"] = present
    if model.attention_layers:
        for part, past, present in zip(("key", "value"), *cache_names("%d"), strict=True):
            inputs[f"past_{part}_names"] = past
            outputs[f"present_{part}_names"] = present
    return inputs, outputs


def _layers(model: Model) -> dict[str, Any]:
    """For models with recurrent states: the type of each layer, and the convolutions' past."""
    if not model.states:
        return {}
    types = {"attention": "full_attention", "conv": "conv", "scan": "linear_attention"}
    layer_types = [types[kind] for kind in model.spec.kinds]
    past_tokens = max(state.shape[1] for state in model.states if state.kind == "conv")
    return {"layer_types": layer_types, "conv_cache_size": past_tokens}
