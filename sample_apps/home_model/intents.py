"""The intents: slots, keys of the answer, and phrasings.

A template has its slots in braces. ``fixed``: answer values that the template itself implies.
``held_out``: the template does not occur in training and measures unseen phrasings.
``start``: the template may follow a polite opening such as "could you".
"""

from __future__ import annotations

from dataclasses import dataclass, field

import slots
from slots import Slot


@dataclass(frozen=True)
class Phrasing:
    """One template of an intent."""

    text: str
    fixed: dict[str, object] = field(default_factory=dict)
    start: bool = True
    held_out: bool = False


@dataclass(frozen=True)
class Intent:
    """An intent; its answer is a line of JSON: {"intent": name, then ``keys`` in this order}."""

    name: str
    keys: tuple[str, ...]
    slots: dict[str, Slot]
    phrasings: tuple[Phrasing, ...]


def phrasings(
    *texts: str, start: bool = True, held_out: bool = False, **fixed: object
) -> list[Phrasing]:
    """Several templates with the same properties."""
    return [Phrasing(text, fixed, start, held_out) for text in texts]


ROOM = {"room": slots.one_of(slots.ROOMS)}
WHEN: dict[str, slots.Slot] = {"day": slots.day, "time": slots.time}


def _light() -> list[Phrasing]:
    templates = []
    for state in ("on", "off"):
        templates += phrasings(
            f"turn {state} the {{room}} lights",
            f"turn the {{room}} lights {state}",
            f"switch {state} the {{room}} light",
            f"switch the {{room}} light {state}",
            f"put the {{room}} lights {state}",
            f"turn {state} the lights in the {{room}}",
            f"turn {state} the {{room}} lights at {{time}}",
            f"turn the {{room}} lights {state} at {{time}}",
            f"at {{time}} turn {state} the {{room}} lights",
            f"switch {state} the lights in the {{room}} at {{time}}",
            f"in the {{room}}, turn the lights {state}",
            f"keep the {{room}} lights {state}",
            f"turn {state} the light in the {{room}} at {{time}}",
            state=state,
        )
        templates += phrasings(
            f"{{room}} lights {state}",
            f"{{room}} light {state} at {{time}}",
            f"lights {state} in the {{room}}",
            start=False,
            state=state,
        )
        templates += phrasings(
            f"switch the lights in the {{room}} {state} at {{time}}",
            f"make sure the {{room}} lights are {state}",
            held_out=True,
            state=state,
        )
        templates += phrasings(f"i want the {{room}} lights {state}", start=False, state=state)
    return templates + phrasings("lights out in the {room}", start=False, state="off")


def _blinds() -> list[Phrasing]:
    templates = []
    for verb, state in (
        ("open", "open"),
        ("raise", "open"),
        ("close", "closed"),
        ("lower", "closed"),
    ):
        templates += phrasings(
            f"{verb} the {{room}} blinds",
            f"{verb} the blinds in the {{room}}",
            f"{verb} the {{room}} blinds at {{time}}",
            f"at {{time}} {verb} the {{room}} blinds",
            f"in the {{room}}, {verb} the blinds",
            f"in the {{room}} {verb} the blinds at {{time}}",
            state=state,
        )
        templates += phrasings(
            f"{verb} the blinds in the {{room}} at {{time}}", held_out=True, state=state
        )
    templates += phrasings("{room} blinds up", start=False, state="open")
    templates += phrasings("{room} blinds down", start=False, state="closed")
    return templates


def _alarm() -> list[Phrasing]:
    return [
        *phrasings(
            "wake me at {time} {day}",
            "wake me up at {time} {day}",
            "wake me {day} at {time}",
            "set an alarm for {time} {day}",
            "set my alarm {day} for {time}",
            "set an alarm {day} at {time}",
            "wake me up {day} at {time}",
            "create an alarm for {time} {day}",
            "have me up at {time} {day}",
        ),
        *phrasings(
            "wake me at {time}", "set an alarm for {time}", "wake me up at {time}", day="today"
        ),
        *phrasings(
            "alarm {day} {time}",
            "alarm at {time} {day}",
            "i need to get up at {time} {day}",
            "{day} alarm at {time}",
            "i have to get up at {time} {day}",
            "i must be up at {time} {day}",
            "i need to be awake by {time} {day}",
            start=False,
        ),
        *phrasings("set the alarm to {time} {day}", held_out=True),
        *phrasings("i have to be up by {time} {day}", start=False, held_out=True),
    ]


def _remind() -> list[Phrasing]:
    return [
        *phrasings(
            "remind me to {text} {day} at {time}",
            "remind me {day} at {time} to {text}",
            "remind me at {time} {day} to {text}",
            "set a reminder to {text} {day} at {time}",
            "set a reminder {day} at {time} to {text}",
            "add a reminder to {text} {day} at {time}",
            "make a reminder to {text} at {time} {day}",
        ),
        *phrasings("remind me to {text} at {time}", "remind me at {time} to {text}", day="today"),
        *phrasings(
            "reminder {day} {time}: {text}",
            "don't let me forget to {text} {day} at {time}",
            start=False,
        ),
        *phrasings("create a reminder to {text} at {time} {day}", held_out=True),
    ]


def _timer() -> list[Phrasing]:
    templates = []
    for unit in ("seconds", "minutes", "hours"):
        one = unit[:-1]
        templates += phrasings(
            f"set a timer for {{amount}} {unit}",
            f"start a timer for {{amount}} {unit}",
            f"set a {{amount}} {one} timer",
            f"start a {{amount}} {one} timer",
            f"count down {{amount}} {unit}",
            f"create a {{amount}} {one} timer",
            f"give me {{amount}} {unit} on the timer",
            unit=unit,
        )
        templates += phrasings(
            f"timer {{amount}} {unit}", f"{{amount}} {unit} timer", start=False, unit=unit
        )
        templates += phrasings(f"give me a timer of {{amount}} {unit}", held_out=True, unit=unit)
    return templates


INTENTS = (
    Intent("light", ("room", "state", "time"), {**ROOM, "time": slots.time}, tuple(_light())),
    Intent(
        "dim",
        ("room", "level"),
        {**ROOM, "level": slots.number(5, 95, 5)},
        (
            *phrasings(
                "dim the {room} lights to {level} percent",
                "dim the {room} to {level} percent",
                "set the {room} lights to {level} percent",
                "set the {room} brightness to {level}",
                "set the lights in the {room} to {level} percent",
                "in the {room}, dim the lights to {level} percent",
                "bring the brightness in the {room} to {level} percent",
            ),
            *phrasings("{room} lights {level} percent", "{room} lights at {level}%", start=False),
            *phrasings("bring the {room} lights to {level} percent", held_out=True),
        ),
    ),
    Intent(
        "color",
        ("room", "color"),
        {**ROOM, "color": slots.one_of(slots.COLORS)},
        (
            *phrasings(
                "make the {room} lights {color}",
                "set the {room} lights to {color}",
                "turn the {room} lights {color}",
                "change the {room} light to {color}",
                "make the lights in the {room} {color}",
                "in the {room}, make the lights {color}",
                "change the color in the {room} to {color}",
            ),
            *phrasings("{room} lights {color}", "{color} light in the {room}", start=False),
            *phrasings("change the color of the {room} lights to {color}", held_out=True),
        ),
    ),
    Intent(
        "heat",
        ("room", "degrees"),
        {**ROOM, "degrees": slots.number(15, 27)},
        (
            *phrasings(
                "heat the {room} to {degrees} degrees",
                "set the {room} to {degrees} degrees",
                "set the {room} heating to {degrees}",
                "set the heating in the {room} to {degrees} degrees",
                "warm the {room} up to {degrees} degrees",
                "make it {degrees} degrees in the {room}",
                "bring the {room} to {degrees} degrees",
                "set the temperature of the {room} to {degrees}",
                "in the {room}, set the heating to {degrees}",
            ),
            *phrasings("{room} {degrees} degrees", "{room} heating {degrees}", start=False),
            *phrasings("set the temperature in the {room} to {degrees} degrees", held_out=True),
        ),
    ),
    Intent("alarm", ("day", "time"), WHEN, tuple(_alarm())),
    Intent(
        "cancel_alarm",
        ("day",),
        {"day": slots.day},
        (
            *phrasings(
                "cancel my alarm {day}",
                "delete the alarm {day}",
                "turn off my alarm {day}",
                "cancel the alarm i set {day}",
                "remove the alarm i have {day}",
                "drop my alarm {day}",
            ),
            *phrasings("no alarm {day}", "i don't need the alarm {day}", start=False),
            *phrasings("remove my alarm {day}", held_out=True),
        ),
    ),
    Intent("remind", ("text", "day", "time"), {"text": slots.deed, **WHEN}, tuple(_remind())),
    Intent("timer", ("amount", "unit"), {"amount": slots.number(1, 90)}, tuple(_timer())),
    Intent(
        "play",
        ("music", "room"),
        {"music": slots.one_of(slots.MUSIC), **ROOM},
        (
            *phrasings(
                "play {music}",
                "play {music} in the {room}",
                "put on {music}",
                "start {music}",
                "put on {music} in the {room}",
                "start playing {music} in the {room}",
                "in the {room}, put on {music}",
                "play me {music}",
                "in the {room} start {music}",
            ),
            *phrasings(
                "{music} in the {room}",
                "i want to hear {music}",
                "i'd like to listen to {music}",
                start=False,
            ),
            *phrasings("in the {room}, play {music}", held_out=True),
        ),
    ),
    Intent(
        "volume",
        ("level",),
        {"level": slots.number(0, 100, 5)},
        (
            *phrasings(
                "set the volume to {level}",
                "set the volume to {level} percent",
                "change the volume to {level}",
                "turn the volume to {level} percent",
                "put the sound at {level}",
                "put the volume to {level}",
            ),
            *phrasings("volume {level}", "volume at {level} percent", start=False),
            *phrasings("put the volume at {level}", held_out=True),
        ),
    ),
    Intent(
        "stop",
        (),
        {},
        (
            *phrasings(
                "stop the music",
                "pause the music",
                "stop playing",
                "turn off the music",
                "pause the song",
                "stop this song",
                "turn the song off",
                "stop the radio",
            ),
            *phrasings("music off", "quiet", "silence", start=False),
            *phrasings("stop the song", held_out=True),
        ),
    ),
    Intent(
        "buy",
        ("item", "amount"),
        {"item": slots.goods, "amount": slots.number(2, 24)},
        (
            *phrasings(
                "add {item} to the shopping list",
                "put {item} on the shopping list",
                "add {item} to my list",
                "note {item} on the shopping list",
                amount=1,
            ),
            *phrasings(
                "add {amount} {item} to the shopping list",
                "put {amount} {item} on my shopping list",
                "write {amount} {item} on the shopping list",
                "note down {amount} {item}",
                "get {amount} {item} for me",
                "note that we need {amount} {item}",
            ),
            *phrasings(
                "we need {item}", "buy {item}", "i need to buy {item}", start=False, amount=1
            ),
            *phrasings("we need {amount} {item}", "buy {amount} {item}", start=False),
            *phrasings("note {amount} {item} for shopping", held_out=True),
        ),
    ),
    Intent(
        "remove",
        ("item",),
        {"item": slots.goods},
        (
            *phrasings(
                "remove {item} from the shopping list",
                "take {item} off the list",
                "delete {item} from my shopping list",
                "cross {item} off the shopping list",
                "take {item} off my list",
                "cross {item} off my shopping list",
            ),
            *phrasings("we don't need {item} anymore", "no more {item}", start=False),
            *phrasings("take {item} off my shopping list", held_out=True),
        ),
    ),
    Intent("blinds", ("room", "state", "time"), {**ROOM, "time": slots.time}, tuple(_blinds())),
)
