"""The .litertlm: model, tokenizer and metadata, packed by Google's own litert-lm-builder."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from litert_lm_builder import litertlm_builder as builder
from litert_lm_builder.runtime.proto import llm_metadata_pb2, sampler_params_pb2

from slmkit.backend.interface import Job, TokenFacts
from slmkit.errors import BackendError
from slmkit_litert.files import BUNDLE, TASK

EPOCH = (1980, 1, 1, 0, 0, 0)  # of the entries of a .task: the same files give the same bytes
TOKENIZER, SENTENCEPIECE = "tokenizer.json", "tokenizer.model"
# LiteRT-LM hands a message's content as a list of parts, where most templates expect text; it
# renders bos_token as nothing and puts the start token before the whole itself (0.18.1).
TEXT_OF_PARTS = """{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set flat.messages = flat.messages + [message] -%}
{%- else -%}
{%- set said = namespace(text='') -%}
{%- for part in message['content'] -%}
{%- set said.text = said.text ~ (part['text'] | default('')) -%}
{%- endfor -%}
{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': said.text}] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""


def pack(job: Job, model: Path, folder: Path, names: Sequence[str]) -> None:
    """Write those bundles that are named."""
    metadata = metadata_of(job.tokens, job.context_length).SerializeToString()
    if BUNDLE in names:
        _pack_litertlm(job, model, metadata, folder / BUNDLE)
    if TASK in names:
        _pack_task(job, model, metadata, folder / TASK)


def _pack_task(job: Job, model: Path, metadata: bytes, out: Path) -> None:
    """MediaPipe's older form: a zip file, nothing compressed."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as task:
        for name, content in (
            ("TF_LITE_PREFILL_DECODE", model.read_bytes()),
            ("TOKENIZER_MODEL", sentencepiece(job.tokens).read_bytes()),
            ("METADATA", metadata),
        ):
            task.writestr(zipfile.ZipInfo(name, EPOCH), content)


def _pack_litertlm(job: Job, model: Path, metadata: bytes, out: Path) -> None:
    """Model, metadata and tokenizer, which has a name for every id of the model."""
    with tempfile.TemporaryDirectory(prefix="slmkit-") as scratch:
        described, tokenizer = Path(scratch) / "metadata.pb", Path(scratch) / TOKENIZER
        described.write_bytes(metadata)
        file = builder.LitertLmFileBuilder()
        file.add_system_metadata(
            builder.Metadata(key="Authors", value="slmkit", dtype=builder.DType.STRING)
        )
        file.add_llm_metadata(str(described))
        if job.options.get("tokenizer") == "sentencepiece":
            file.add_sentencepiece_tokenizer(str(sentencepiece(job.tokens)))
        else:
            text = _file(job.tokens, TOKENIZER).read_text(encoding="utf-8")
            tokenizer.write_text(every_id_named(text, job.spec.vocabulary), encoding="utf-8")
            file.add_hf_tokenizer(str(tokenizer))
        file.add_tflite_model(str(model), builder.TfLiteModelType.PREFILL_DECODE)
        with open(out, "wb") as stream:
            file.build(stream)


def sentencepiece(tokens: TokenFacts) -> Path:
    """The checkpoint's SentencePiece model. Raises BackendError if it has none."""
    return _file(tokens, SENTENCEPIECE)


def _file(tokens: TokenFacts, name: str) -> Path:
    for path in tokens.files:
        if path.name == name:
            return path
    raise BackendError(
        f"the checkpoint has no {name}", "leave tokenizer: sentencepiece and task out of the recipe"
    )


def metadata_of(tokens: TokenFacts, context: int) -> llm_metadata_pb2.LlmMetadata:
    """Start and stop tokens, the most tokens, the prompt template, greedy decoding."""
    found = llm_metadata_pb2.LlmMetadata()
    if tokens.bos is not None:
        found.start_token.token_ids.ids.append(tokens.bos)
    for stop in tokens.stop:
        found.stop_tokens.add().token_ids.ids.append(stop)
    sampler = found.sampler_params  # GREEDY is not implemented there (0.18.1)
    sampler.type = sampler_params_pb2.SamplerParameters.TOP_P
    sampler.k, sampler.p, sampler.temperature = 1, 1.0, 1.0
    if tokens.chat_template:
        found.jinja_prompt_template = TEXT_OF_PARTS + tokens.chat_template
    found.max_num_tokens = context
    found.llm_model_type.generic_model.SetInParent()
    return found


def every_id_named(text: str, vocabulary: int) -> str:
    """tokenizer.json with a special token for each id that it does not know.

    Vocabularies are padded: the model may emit an id that the tokenizer lacks, and LiteRT-LM stops
    at one (0.18.1).
    """
    values = json.loads(text)
    listed = values["model"]["vocab"]  # by token, or a list of tokens
    ids = listed.values() if isinstance(listed, dict) else range(len(listed))
    known = {*ids, *(each["id"] for each in values["added_tokens"])}
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
