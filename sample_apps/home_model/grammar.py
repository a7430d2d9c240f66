"""Commands and their answers: sampled from the intents, split so that held-out means unseen."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from random import Random

from intents import INTENTS, Intent, Way

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
RESERVED = 8  # one of so many combinations of slot values is kept for the held-out set


@dataclass(frozen=True)
class Example:
    """One command, its line of JSON, and what about it is unseen in training."""

    prompt: str
    answer: str
    kind: str  # seen, combination or phrasing


def normalized(prompt: str) -> str:
    """Lower case, letters and digits only: two prompts are the same sentence if these agree."""
    return re.sub(r"[^a-z0-9:%]+", " ", prompt.lower()).strip()


def sample(random: Random) -> Example:
    """One example of any kind."""
    intent = random.choice(INTENTS)
    way = random.choice(intent.ways)
    said, meant = _fill(random, intent, way)
    body = way.text.format(**said)
    prompt = _style(random, _wrap(random, body, way))
    return Example(prompt, _answer(intent, meant), _kind(intent, way, meant))


def _fill(random: Random, intent: Intent, way: Way) -> tuple[dict[str, str], dict[str, object]]:
    said: dict[str, str] = {}
    meant: dict[str, object] = dict(way.fixed)
    for name in re.findall(r"{(\w+)}", way.text):
        said[name], meant[name] = intent.slots[name](random)
    return said, meant


def _answer(intent: Intent, meant: dict[str, object]) -> str:
    """Compact JSON: the intent first, then its keys in their order."""
    values = {"intent": intent.name, **{key: meant[key] for key in intent.keys if key in meant}}
    return json.dumps(values, separators=(",", ":"))


def _kind(intent: Intent, way: Way, meant: dict[str, object]) -> str:
    """Reserved combinations are unseen with any words; reserved ways with any values."""
    if way.held_out:
        return "phrasing"
    if len(meant) < 2:
        return "seen"
    digest = hashlib.sha256(_answer(intent, meant).encode()).digest()
    return "combination" if digest[0] % RESERVED == 0 else "seen"


def _wrap(random: Random, body: str, way: Way) -> str:
    opening = random.choice(OPENINGS) if way.start else random.choice(("", "", "", "hey, "))
    return opening + body + random.choice(ENDINGS)


def _style(random: Random, text: str) -> str:
    """As people type: mostly lower case, some capitals, some full stops."""
    style = random.random()
    if style < 0.5:
        return text
    text = text[0].upper() + text[1:]
    if style < 0.8:
        return text
    return text + ("?" if text.lower().startswith(("could", "can", "would")) else ".")
