"""The slots of commands: rooms, colours, times, days, things.

A slot gives a text and its value: "half past seven in the evening", "19:30".
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

Filler = tuple[str, object]  # text in the command, value in the answer
Slot = Callable[[Random], Filler]

ROOMS = (
    "kitchen",
    "bedroom",
    "living room",
    "bathroom",
    "hallway",
    "office",
    "garage",
    "attic",
    "basement",
    "dining room",
    "nursery",
    "guest room",
    "laundry room",
    "balcony",
    "garden",
)
COLORS = (
    "red",
    "green",
    "blue",
    "yellow",
    "orange",
    "purple",
    "pink",
    "white",
    "warm white",
    "cyan",
    "turquoise",
    "gold",
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
NUMBERS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
MUSIC = (
    "jazz",
    "rock",
    "classical music",
    "pop",
    "blues",
    "hip hop",
    "country",
    "techno",
    "reggae",
    "the beatles",
    "mozart",
    "abba",
    "queen",
    "miles davis",
    "bach",
    "nina simone",
    "radiohead",
    "johnny cash",
    "chopin",
    "bob marley",
    "some soul",
    "my workout mix",
    "lullabies",
    "the radio",
    "folk songs",
    "piano music",
    "daft punk",
    "david bowie",
    "the rolling stones",
    "ella fitzgerald",
)
ADJECTIVES = (
    "fresh",
    "frozen",
    "organic",
    "cheap",
    "large",
    "small",
    "red",
    "green",
    "brown",
    "white",
    "sweet",
    "salted",
    "dark",
    "light",
    "spicy",
    "canned",
)
GOODS = (
    "apples",
    "bananas",
    "milk",
    "bread",
    "eggs",
    "butter",
    "cheese",
    "rice",
    "pasta",
    "tomatoes",
    "potatoes",
    "onions",
    "garlic",
    "carrots",
    "coffee",
    "tea",
    "sugar",
    "flour",
    "salt",
    "pepper",
    "olive oil",
    "yogurt",
    "chicken",
    "fish",
    "beans",
    "lentils",
    "soap",
    "shampoo",
    "toothpaste",
    "batteries",
    "candles",
    "light bulbs",
    "napkins",
    "cereal",
    "honey",
    "jam",
    "lemons",
    "grapes",
    "spinach",
    "mushrooms",
    "paper towels",
    "dog food",
    "cat litter",
    "orange juice",
    "chocolate",
)
VERBS = (
    "call",
    "email",
    "visit",
    "thank",
    "text",
    "meet",
    "pick up",
    "write to",
    "ask",
    "invite",
    "remind",
    "pay",
)
PEOPLE = (
    "mom",
    "dad",
    "the doctor",
    "the dentist",
    "anna",
    "ben",
    "my boss",
    "the plumber",
    "grandma",
    "the bank",
    "lucas",
    "maria",
    "the landlord",
    "my sister",
    "the school",
    "uncle joe",
    "emma",
    "the vet",
    "the neighbors",
    "oliver",
    "sofia",
    "the coach",
    "my brother",
    "aunt rose",
)
CHORES = (
    "water",
    "clean",
    "check",
    "fix",
    "move",
    "buy",
    "return",
    "wash",
    "paint",
    "sell",
    "pack",
    "find",
    "charge",
    "empty",
    "order",
)
OBJECTS = (
    "the plants",
    "the car",
    "the windows",
    "the bike",
    "the dishwasher",
    "the bins",
    "the laptop",
    "the books",
    "the oven",
    "the keys",
    "the suitcase",
    "the roof",
    "the filter",
    "the tickets",
    "the fridge",
    "the passport",
    "the printer",
    "the fence",
    "the carpet",
    "the camera",
    "the printer paper",
    "the old sofa",
    "the fish tank",
    "the tent",
)


def words(number: int) -> str:
    """A number from 0 to 99 in words: 42 -> "forty two"."""
    if number < 20:
        return NUMBERS[number]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f" {NUMBERS[ones]}" if ones else "")


def number_text(random: Random, number: int) -> str:
    """A number in digits; 30 % of those below 100 in words."""
    return words(number) if number < 100 and random.random() < 0.3 else str(number)


def one_of(choices: tuple[str, ...]) -> Slot:
    """A slot whose value is its text."""

    def slot(random: Random) -> Filler:
        text = random.choice(choices)
        return text, text

    return slot


def number(low: int, high: int, step: int = 1) -> Slot:
    """A slot of a whole number from ``low`` to ``high``."""

    def slot(random: Random) -> Filler:
        value = random.randrange(low, high + 1, step)
        return number_text(random, value), value

    return slot


def day(random: Random) -> Filler:
    """today, tomorrow, or a weekday ("on monday", "next monday"), whose value is its name."""
    if random.random() < 0.45:
        text = random.choice(("today", "tomorrow"))
        return text, text
    name = random.choice(WEEKDAYS)
    return random.choice((f"on {name}", f"on {name}", f"this {name}", f"next {name}")), name


def time(random: Random) -> Filler:
    """A time of day in one of its spellings; its value is HH:MM on a 24-hour clock."""
    return random.choice((_digits, _digits, _twelve_hour, _twelve_hour, _in_words, _named))(random)


def goods(random: Random) -> Filler:
    """A thing to buy, half of them with an adjective."""
    thing = random.choice(GOODS)
    if random.random() < 0.5:
        thing = f"{random.choice(ADJECTIVES)} {thing}"
    return thing, thing


def deed(random: Random) -> Filler:
    """Something to be reminded of: a verb and a person or an object."""
    people = random.random() < 0.5
    verb, whom = (VERBS, PEOPLE) if people else (CHORES, OBJECTS)
    text = f"{random.choice(verb)} {random.choice(whom)}"
    return text, text


def clock(hour: int, minute: int) -> str:
    """A time as HH:MM."""
    return f"{hour:02d}:{minute:02d}"


def _digits(random: Random) -> Filler:
    hour, minute = random.randrange(24), random.choice((0, 5, 10, 15, 20, 30, 40, 45, 50, 55))
    text = random.choice((f"{hour}:{minute:02d}", f"{hour:02d}:{minute:02d}"))
    return text, clock(hour, minute)


def _twelve_hour(random: Random) -> Filler:
    hour, half = random.randrange(1, 13), random.choice(("am", "pm"))
    minute = random.choice((0, 0, 0, 10, 15, 30, 45, 50))
    text = f"{hour}:{minute:02d}" if minute else number_text(random, hour)
    space = random.choice((" ", " ", "")) if text[-1].isdigit() else " "
    return f"{text}{space}{half}", clock(hour % 12 + (12 if half == "pm" else 0), minute)


PARTS = {  # part of the day -> its hours on a 12-hour clock, and hours to add for a 24-hour clock
    "in the morning": (range(1, 12), 0),
    "in the afternoon": (range(1, 6), 12),
    "in the evening": (range(5, 11), 12),
    "at night": (range(8, 12), 12),
}
FRACTIONS = {"": 0, "quarter past ": 15, "half past ": 30, "quarter to ": -15, "ten past ": 10}


def _in_words(random: Random) -> Filler:
    """A time in words: "quarter to seven in the evening", 18:45."""
    part, (hours, added) = random.choice(list(PARTS.items()))
    hour, (fraction, minutes) = random.choice(hours), random.choice(list(FRACTIONS.items()))
    total = ((hour + added) * 60 + minutes) % (24 * 60)
    return f"{fraction}{words(hour)} {part}", clock(*divmod(total, 60))


def _named(random: Random) -> Filler:
    return random.choice((("noon", "12:00"), ("midnight", "00:00")))
