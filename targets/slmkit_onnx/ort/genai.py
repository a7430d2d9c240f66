"""What onnxruntime-genai wants beside the graph: its config and the tokenizer's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmkit.target import Job, Model
from slmkit_onnx.genai import token_ids, write_config, write_tokenizer
from slmkit_onnx.ort.attention import fused

# Types of decoders that onnxruntime-genai 0.18 knows; it treats them all alike, and refuses others.
KNOWN = frozenset({
    "gemma", "gemma2", "gemma3_text", "granite", "llama", "mistral", "phi3", "qwen2", "qwen3",
})  # fmt: skip
ANY = "llama"
HYBRID = "lfm2"  # its decoder whose layers attend or convolve


def known(model: Model) -> bool:
    """Whether onnxruntime-genai can keep what the layers keep: caches, and convolutions' states."""
    return all(state.kind == "conv" for state in model.states)


def write_genai(job: Job, folder: Path, model: str) -> None:
    """genai_config.json and copies of the tokenizer's files."""
    write_config(genai_config(job, model), folder)
    write_tokenizer(job, folder)


def genai_config(job: Job, model: str) -> dict[str, Any]:
    """The config of onnxruntime-genai 0.18 for a decoder with its own KV cache."""
    return {
        "model": {
            **token_ids(job),
            "type": _type(job.model),
            "vocab_size": job.spec.vocabulary,
            "context_length": job.context_length,
            "decoder": _decoder(job.model, model),
        },
        "search": {
            "do_sample": False,
            "max_length": job.context_length,
            "chunk_size": job.prefill_chunk,  # bounds the memory of a long prompt's logits
            "past_present_share_buffer": fused(job.spec),
        },
    }


def _type(model: Model) -> str:
    if model.states:
        return HYBRID
    return model.spec.model_type if model.spec.model_type in KNOWN else ANY


def _decoder(model: Model, file: str) -> dict[str, Any]:
    spec, states = model.spec, _states(model)
    return {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "filename": file,
        "head_size": spec.head_width,
        "hidden_size": spec.width,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "num_hidden_layers": spec.layers,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
            **({"past_conv_names": "past_conv.%d"} if states else {}),
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
            **({"present_conv_names": "present_conv.%d"} if states else {}),
        },
        **states,
    }


def _states(model: Model) -> dict[str, Any]:
    """Which layers attend, and how many tokens the others keep."""
    if not model.states:
        return {}
    convolved = {state.layer: state.shape[1] for state in model.states}
    kinds = ["conv" if at in convolved else "full_attention" for at in range(model.spec.layers)]
    return {"layer_types": kinds, "conv_cache_size": max(convolved.values())}
