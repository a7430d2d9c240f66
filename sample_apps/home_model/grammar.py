"""Sample commands and their answers from the intents; reserve some for the held-out file."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from random import Random

from intents import INTENTS, Intent, Phrasing

OPENINGS = (
    "",
    "",
    "",
    "",
    "please ",
    "could you ",
    "can you please ",
    "hey, ",
    "would you ",
    "can you ",
    "i'd like you to ",
)
ENDINGS = ("", "", "", "", " please", ", please", ", thanks", " now")
RESERVED = 8  # one in 8 combinations of slot values is reserved for the held-out file


@dataclass(frozen=True)
class Example:
    """A command, its answer as a line of JSON, and its kind.

    ``kind``: "seen" for training; "combination" if its slot values, "phrasing" if its template is
    reserved for the held-out file.
    """

    prompt: str
    answer: str
    kind: str


def normalized(prompt: str) -> str:
    """A prompt in lower case without punctuation, to compare sentences."""
    return re.sub(r"[^a-z0-9:%]+", " ", prompt.lower()).strip()


def sample(random: Random) -> Example:
    """A random example of any kind."""
    intent = random.choice(INTENTS)
    phrasing = random.choice(intent.phrasings)
    texts, values = _fill_slots(random, intent, phrasing)
    body = phrasing.text.format(**texts)
    prompt = _style(random, _wrap(random, body, phrasing))
    return Example(prompt, _answer(intent, values), _kind(intent, phrasing, values))


def _fill_slots(
    random: Random, intent: Intent, phrasing: Phrasing
) -> tuple[dict[str, str], dict[str, object]]:
    """Text and value of each slot of a template."""
    texts: dict[str, str] = {}
    values: dict[str, object] = dict(phrasing.fixed)
    for name in re.findall(r"{(\w+)}", phrasing.text):
        texts[name], values[name] = intent.slots[name](random)
    return texts, values


def _answer(intent: Intent, values: dict[str, object]) -> str:
    """Compact JSON: the intent first, then its keys in their order."""
    ordered = {key: values[key] for key in intent.keys if key in values}
    return json.dumps({"intent": intent.name, **ordered}, separators=(",", ":"))


def _kind(intent: Intent, phrasing: Phrasing, values: dict[str, object]) -> str:
    """A reserved combination stays so in every phrasing, a reserved phrasing with all values."""
    if phrasing.held_out:
        return "phrasing"
    if len(values) < 2:
        return "seen"
    digest = hashlib.sha256(_answer(intent, values).encode()).digest()
    return "combination" if digest[0] % RESERVED == 0 else "seen"


def _wrap(random: Random, body: str, phrasing: Phrasing) -> str:
    """A command with an opening and an ending, such as "please" and "now"."""
    opening = random.choice(OPENINGS) if phrasing.start else random.choice(("", "", "", "hey, "))
    return opening + body + random.choice(ENDINGS)


def _style(random: Random, text: str) -> str:
    """Vary capitals and final punctuation as typed text does; half of it is unchanged."""
    style = random.random()
    if style < 0.5:
        return text
    text = text[0].upper() + text[1:]
    if style < 0.8:
        return text
    return text + ("?" if text.lower().startswith(("could", "can", "would")) else ".")
