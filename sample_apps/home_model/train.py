"""Train the sample model ``home`` and write its checkpoint folder.

python train.py --out FOLDER
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from data import SEED, training, write_held_out

SPECIAL = ("<pad>", "<bos>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PAD, BOS, END = 0, 1, 2
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
VOCABULARY, CONTEXT = 1024, 256
BATCH, WARMUP, PEAK, FLOOR = 96, 100, 3e-3, 3e-5
SHAPE = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
Batch = tuple[torch.Tensor, torch.Tensor]


def make_tokenizer() -> Tokenizer:
    """Train a byte-level BPE on commands and answers; every byte has a token."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    texts = (
        text for each in itertools.islice(training(), 30_000) for text in (each.prompt, each.answer)
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    library.train_from_iterator(texts, trainer)
    return library


def batches(tokenizer: Tokenizer) -> Iterator[Batch]:
    """Batches of ids and labels, (batch, T); only the answer and its end token have labels."""
    examples = training(SEED + 2)
    while True:
        rows = []
        for example in itertools.islice(examples, BATCH):
            prompt = tokenizer.encode(f"<bos><|user|>{example.prompt}<|end|><|assistant|>").ids
            answer = tokenizer.encode(f"{example.answer}<|end|>").ids
            rows.append((prompt, answer))
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.full((BATCH, longest), PAD)
        labels = torch.full((BATCH, longest), -100)
        for row, (prompt, answer) in enumerate(rows):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor(prompt + answer)
            labels[row, len(prompt) : end] = torch.tensor(answer)
        yield ids, labels


def rate(step: int, steps: int) -> float:
    """Learning rate: linear warm-up, then a cosine from PEAK to FLOOR."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    share = (step - WARMUP) / max(1, steps - WARMUP)
    return FLOOR + (PEAK - FLOOR) * (1 + math.cos(math.pi * share)) / 2


def make_model() -> LlamaForCausalLM:
    """A llama of random weights, with the sizes of SHAPE."""
    config = LlamaConfig(
        **SHAPE,
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    return LlamaForCausalLM(config)


def train(tokenizer: Tokenizer, steps: int) -> LlamaForCausalLM:
    """Train with AdamW and a cosine schedule; every batch has new sentences."""
    torch.manual_seed(SEED)
    model = make_model()
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters")  # noqa: T201
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.05, betas=(0.9, 0.98))
    begun = time.monotonic()
    for step, (ids, labels) in enumerate(itertools.islice(batches(tokenizer), steps)):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            seconds = time.monotonic() - begun
            print(f"step {step} loss {loss.item():.4f} {seconds:.0f} s", flush=True)  # noqa: T201
    return model


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write a Hugging Face checkpoint in float16, its tokenizer and the held-out file."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("transformers_version", None)
    _write(folder / "config.json", config)
    _write(
        folder / "generation_config.json",
        {"bos_token_id": BOS, "eos_token_id": END, "pad_token_id": PAD},
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<|end|>",
        "pad_token": "<pad>",
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    _write(folder / "tokenizer_config.json", settings)
    write_held_out(folder / "heldout.jsonl")


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Train the model and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = make_tokenizer()
    save(train(tokenizer, options.steps), tokenizer, options.out)


if __name__ == "__main__":
    main()
