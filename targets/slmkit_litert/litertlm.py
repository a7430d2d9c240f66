"""Bundles for LiteRT-LM: model, tokenizer and metadata, packed by Google's litert-lm-builder."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from litert_lm_builder import litertlm_builder as builder
from litert_lm_builder.runtime.proto import llm_metadata_pb2, sampler_params_pb2

from slmkit.backend.interface import Job, TokenFacts
from slmkit.backend.tokenizer_files import within
from slmkit.errors import BackendError
from slmkit_litert.files import BUNDLE, TASK
from slmkit_litert.prompts import bundle_template, prompt_start
from slmkit_litert.reproducible import reproducible

EPOCH = (1980, 1, 1, 0, 0, 0)  # time of a .task's entries, so that its bytes are reproducible
MOST_CANDIDATES = 1024  # of top-p, where the author asks for all: LiteRT-LM wants a k
TOKENIZER, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"


def write_bundles(job: Job, model: Path, folder: Path, names: Sequence[str]) -> None:
    """Write the bundles BUNDLE and TASK, as far as ``names`` contains them.

    Raises BackendError if a file of the tokenizer is missing.
    """
    tokens, context = job.tokens, job.context_length
    if BUNDLE in names:
        metadata = runtime_metadata(tokens, context, prompt_start(tokens))
        _write_litertlm(job, model, metadata.SerializeToString(), folder / BUNDLE)
    if TASK in names:
        metadata = runtime_metadata(tokens, context, tokens.bos)  # it cannot be opened without
        _write_task(job, model, metadata.SerializeToString(), folder / TASK)


def _write_task(job: Job, model: Path, metadata: bytes, out: Path) -> None:
    """Write a .task, MediaPipe's older format: a zip file without compression."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as task:
        for name, content in (
            ("TF_LITE_PREFILL_DECODE", model.read_bytes()),
            ("TOKENIZER_MODEL", sentencepiece(job.tokens).read_bytes()),
            ("METADATA", metadata),
        ):
            task.writestr(zipfile.ZipInfo(name, EPOCH), content)


def _write_litertlm(job: Job, model: Path, metadata: bytes, out: Path) -> None:
    """Write a .litertlm, with a token in the tokenizer for every id of the model."""
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        metadata_file, tokenizer = Path(scratch) / "metadata.pb", Path(scratch) / TOKENIZER
        metadata_file.write_bytes(metadata)
        file = builder.LitertLmFileBuilder()
        file.add_system_metadata(
            builder.Metadata(key="Authors", value="slmkit", dtype=builder.DType.STRING)
        )
        file.add_llm_metadata(str(metadata_file))
        if job.options.get("tokenizer") == "sentencepiece":
            file.add_sentencepiece_tokenizer(str(sentencepiece(job.tokens)))
        else:
            text = _tokenizer_file(job.tokens, TOKENIZER).read_text(encoding="utf-8")
            tokenizer.write_text(add_missing_tokens(text, job.spec.vocabulary), encoding="utf-8")
            file.add_hf_tokenizer(str(tokenizer))
        file.add_tflite_model(str(model), builder.TfLiteModelType.PREFILL_DECODE)
        with open(out, "wb") as stream, reproducible(job.codes.key.encode() + metadata):
            file.build(stream)


def sentencepiece(tokens: TokenFacts) -> Path:
    """The checkpoint's SentencePiece model. Raises BackendError if it has none."""
    return _tokenizer_file(tokens, SENTENCEPIECE)


def _tokenizer_file(tokens: TokenFacts, name: str) -> Path:
    """A file of the tokenizer by name. Raises BackendError if the checkpoint has none."""
    for path in tokens.files:
        if path.name == name:
            return path
    raise BackendError(
        f"the checkpoint has no {name}", "leave tokenizer: sentencepiece and task out of the recipe"
    )


def runtime_metadata(
    tokens: TokenFacts, context: int, start: int | None
) -> llm_metadata_pb2.LlmMetadata:
    """LiteRT-LM's metadata: start and stop tokens, context length, chat template, sampling.

    Sampling is the author's, else greedy, which is written as top-p with k = 1, because LiteRT-LM
    does not implement the type GREEDY (0.18.1). A repetition penalty has no place in it.
    """
    metadata = llm_metadata_pb2.LlmMetadata()
    template = bundle_template(tokens)
    if start is not None:
        metadata.start_token.token_ids.ids.append(start)
    for stop in tokens.stop:
        metadata.stop_tokens.add().token_ids.ids.append(stop)
    sampler = metadata.sampler_params
    sampler.type = sampler_params_pb2.SamplerParameters.TOP_P
    author = tokens.generation
    if author.do_sample:
        sampler.k = author.top_k or MOST_CANDIDATES
        sampler.p, sampler.temperature = author.top_p, author.temperature
    else:
        sampler.k, sampler.p, sampler.temperature = 1, 1.0, 1.0
    if template is not None:
        metadata.jinja_prompt_template = template
    metadata.max_num_tokens = context
    metadata.llm_model_type.generic_model.SetInParent()
    return metadata


def add_missing_tokens(text: str, vocabulary: int) -> str:
    """A tokenizer.json with exactly the ids below ``vocabulary``, by added special tokens.

    A model's vocabulary may be padded, so the model may emit an id that the tokenizer lacks, and
    LiteRT-LM stops at such an id (0.18.1).
    """
    values = json.loads(text)
    within(values, vocabulary)
    vocab = values["model"]["vocab"]  # ids by token, or a list of tokens
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    known = {*ids, *(token["id"] for token in values["added_tokens"])}
    values["added_tokens"] += [
        {
            "id": missing,
            "content": f"<unused {missing}>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for missing in sorted(set(range(vocabulary)) - known)
    ]
    return json.dumps(values, ensure_ascii=False)
