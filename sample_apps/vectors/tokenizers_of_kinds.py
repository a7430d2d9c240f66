"""Train a small tokenizer of each kind that the sample apps read, with the settings of its family.

Bytes of the result depend on the version of ``tokenizers``: what is trained is checked in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from slmkit.checkpoint.folder import SAMPLE_MODEL

SIZE = 640  # tokens of a vocabulary
UNKNOWN = "<unk>"
SPACE = "\u2581"  # SentencePiece's letter for a space
MORE = (
    "Once upon a time, in 2026, there was a café — “très joli” — it's said; we'll DON'T go.",
    "日本語とemoji 🎉, Привет, мир! Grüße an 世界, 1234567 + 3.14 = x²",
    "def main():\n    print('hello')\n\n\n    return 0\r\n\tend  ",
)
# The regular expressions of the families' tokenizer.json, as published.
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are small.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = (
    "{% for m in messages %}{% set text = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}"
    "{{ '<|start|>system<|stop|>\n\nToday Date: ' + strftime_now('%d %b %Y') + '\n\n' }}"
    "{% if messages[0].role == 'system' %}{{ messages[0].content | trim }}"
    "{% set messages = messages[1:] %}{% endif %}{{ '<|eot|>' }}{% for m in messages %}"
    "{{ '<|start|>' + m.role + '<|stop|>\n\n' + m.content | trim + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% set first = '' %}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') + m.content | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LINES = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)


def corpus() -> Iterator[str]:
    """Commands of the sample model's held-out set, and lines with other characters."""
    lines = (SAMPLE_MODEL / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    yield from (json.loads(line)["prompt"] for line in lines[:400])
    for _ in range(20):
        yield from MORE


def gpt2(folder: Path) -> None:
    """Byte-level BPE with GPT-2's split, and every digit alone (SmolLM2, StarCoder).

    Some bytes have no token, as in SmolLM2: a tokenizer leaves them out.
    """
    steps = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]
    split = pre_tokenizers.Sequence(steps)
    library = _byte_level(split, ("<|endoftext|>", *IM), lacks=LACKS_OF_SMOLLM2)
    _write(library, folder, CHATML, bos="<|im_start|>", eos="<|im_end|>")


def llama3(folder: Path) -> None:
    """Byte-level BPE with Llama 3's split: whole words are looked up before merges."""
    special = ("<|begin|>", "<|eos|>", "<|start|>", "<|stop|>", "<|eot|>")
    library = _byte_level(_split(LLAMA_3), special, ignore_merges=True)
    library.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), _begin("<|begin|>", 0)]
    )
    _write(library, folder, HEADERS, bos="<|begin|>", eos="<|eot|>")


def qwen2(folder: Path) -> None:
    """Byte-level BPE with Qwen 2's split, on text in NFC; added tokens that are not special."""
    library = _byte_level(_split(QWEN_2), ("<|endoftext|>", *IM), normalizers.NFC())
    library.add_tokens([AddedToken(each, normalized=False) for each in ("<think>", "</think>")])
    _write(library, folder, THINKING, eos="<|im_end|>")


def gemma(folder: Path) -> None:
    """SentencePiece's BPE with byte fallback, and no space before a text; newlines are tokens."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    library = _sentencepiece(special, [normalizers.Replace(" ", SPACE)], fuse=True)
    library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    library.decoder = decoders.Sequence(_pieces())
    library.post_processor = _begin("<bos>", 2)
    library.add_tokens([AddedToken(each, normalized=False) for each in ("\n\n", "\n\n\n", "<b>")])
    _write(library, folder, TURNS, bos="<bos>", eos="<end_of_turn>")


def phi3(folder: Path) -> None:
    """SentencePiece's BPE with a space before a text (Llama 2, Phi-3); tokens that take the white
    space after them."""
    steps = [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    library = _sentencepiece(["<unk>", "<s>", "</s>"], steps, fuse=True)
    library.decoder = decoders.Sequence([*_pieces(), decoders.Strip(" ", 1, 0)])
    library.post_processor = _begin("<s>", 1)
    roles = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    library.add_special_tokens([AddedToken(each, rstrip=True, normalized=False) for each in roles])
    _write(library, folder, LINES, bos="<s>", eos="<|end|>")


# Of the bytes 04, 06, 13, 14, 16, 1D, F1 and F2.
LACKS_OF_SMOLLM2 = "\u0104\u0106\u0113\u0114\u0116\u011d\u00f1\u00f2"
IM = ("<|im_start|>", "<|im_end|>")
KINDS: dict[str, Callable[[Path], None]] = {
    "gpt2": gpt2,
    "llama3": llama3,
    "qwen2": qwen2,
    "gemma": gemma,
    "phi3": phi3,
}


def _split(pattern: str) -> Any:
    steps = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return pre_tokenizers.Sequence(steps)


def _begin(token: str, number: int) -> Any:
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, number)]
    )


def _byte_level(
    split: Any,
    special: Sequence[str],
    normalizer: Any = None,
    ignore_merges: bool = False,
    lacks: str = "",
) -> Tokenizer:
    """``lacks``: letters of bytes without a token."""
    library = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        library.normalizer = normalizer
    library.pre_tokenizer = split
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        show_progress=False,
        special_tokens=list(special),
        initial_alphabet=sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(lacks)),
    )
    library.train_from_iterator(corpus(), trainer)
    return library


def _sentencepiece(special: Sequence[str], steps: Sequence[Any], fuse: bool) -> Tokenizer:
    """Characters and merges are trained; 256 tokens of bytes stand for all other characters."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Replace(" ", SPACE)])
    trained.pre_tokenizer = pre_tokenizers.Split(SPACE, "merged_with_next")
    room = SIZE - len(special) - 256
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=room, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += sorted(model["vocab"], key=model["vocab"].get)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in model["merges"]]
    library = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=UNKNOWN, byte_fallback=True, fuse_unk=fuse)
    )
    library.normalizer = normalizers.Sequence(list(steps)) if len(steps) > 1 else steps[0]
    library.add_special_tokens(list(special))
    return library


def _pieces() -> list[Any]:
    return [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def _write(library: Tokenizer, folder: Path, template: str, eos: str, bos: str = "") -> None:
    """tokenizer.json, and tokenizer_config.json with the special tokens and the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    library.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **({"bos_token": bos} if bos else {}),
        "eos_token": eos,
        "chat_template": template,
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
