"""How byte-level BPE cuts text before merging: by the names that GGUF files have for it.

llama.cpp's table is in ``llama_vocab::impl::load``; the patterns are those of each family's own
tokenizer.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
REST_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*")


@dataclass(frozen=True)
class Cut:
    """One family's way: a pattern, or digits alone before GPT-2's own pattern."""

    pattern: str = ""
    digits: bool = False
    nfc: bool = False  # text is normalized first
    whole_words: bool = False  # a word that is a token is not merged: ignore_merges
    bos: bool = False  # put before a text, unless the file says otherwise
    settings: str = "PreTrainedTokenizerFast"  # tokenizer_class

    @property
    def steps(self) -> dict[str, Any]:
        """The pre-tokenizer of tokenizer.json."""
        if self.pattern:
            split = {
                "type": "Split",
                "pattern": {"Regex": self.pattern},
                "behavior": "Isolated",
                "invert": False,
            }
            return _sequence(split, {**LEVEL, "use_regex": False})
        level = {**LEVEL, "use_regex": True}
        digits = {"type": "Digits", "individual_digits": True}
        return _sequence(digits, level) if self.digits else level


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


GPT2 = Cut(settings="GPT2Tokenizer")
DIGITS = Cut(digits=True, settings="GPT2Tokenizer")
LLAMA3 = Cut(rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{REST}", whole_words=True, bos=True)
QWEN2 = Cut(rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{REST}", nfc=True, settings="Qwen2Tokenizer")
TEKKEN = Cut(
    "|".join([*CASED, r"\p{N}", REST_SLASH]),
    whole_words=True,
    bos=True,
)
GPT4O = Cut(
    "|".join([*(f"{each}{CONTRACTIONS}?" for each in CASED), r"\p{N}{1,3}", REST_SLASH]),
)
CUTS: dict[str, Cut] = {
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2", "mpt"), GPT2),
    **dict.fromkeys(("olmo", "dolma"), Cut(nfc=True, settings="GPT2Tokenizer")),
    **dict.fromkeys(("smollm", "refact", "starcoder"), DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "lfm2"), LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), QWEN2),
    "tekken": TEKKEN,
    "gpt-4o": GPT4O,
}
