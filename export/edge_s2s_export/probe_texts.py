"""Texts for the gates and the golden cases, written for this project: dialogues, messages and short reports.

They are put together from parts, always the same way, so that there are enough of them to choose from.
"""

import random

_NAMES = [
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jack",
    "Kim", "Laura", "Mark", "Nora", "Omar", "Paula", "Rosa", "Sam", "Tina", "Victor",
]  # fmt: skip
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_TIMES = ["8 o'clock", "9:30", "noon", "3 in the afternoon", "half past five", "7 pm"]
_PLACES = ["station", "library", "office", "market", "hospital", "airport", "museum", "swimming pool"]
_THINGS = [
    "a red bicycle",
    "two train tickets",
    "a birthday cake",
    "the blue umbrella",
    "a new laptop",
    "some flowers",
]
_PRICES = ["20 dollars", "$45.50", "about 100 euros", "three pounds"]

_DIALOGUES = [
    [
        "{a}: Hi {b}, are you free on {day}?",
        "{b}: I think so. Why?",
        "{a}: I want to go to the {place} and I need help with {thing}.",
        "{b}: Sure. Let's meet at {time}.",
    ],
    [
        "{a}: Excuse me, how much is {thing}?",
        "{b}: It is {price}.",
        "{a}: That is too expensive for me. Can you make it cheaper?",
        "{b}: I am sorry, I can't. But on {day} everything is ten percent off.",
        "{a}: Then I will come back on {day}.",
    ],
    [
        "{a}: What is the matter, {b}? You look tired.",
        "{b}: I have had a headache since {day}. I could not sleep.",
        "{a}: You should see a doctor. The {place} is open until {time}.",
        "{b}: You are right. Will you come with me?",
        "{a}: Of course. Take a warm coat with you.",
    ],
    [
        "{a}: Good morning. I would like to book a room for {day}.",
        "{b}: Single or double?",
        "{a}: A double room, please. How much does it cost?",
        "{b}: It costs {price} with breakfast. The hotel is next to the {place}.",
        "{a}: Fine. We will arrive at {time}.",
    ],
    [
        "{a}: Did you hear that {b} has lost {thing}?",
        "{c}: Oh no! Where did it happen?",
        "{a}: Near the {place}, on {day} at {time}.",
        "{c}: I know the people who work there. I will ask them.",
    ],
    [
        "{a}: I have an interview at the {place} on {day} and I am very nervous.",
        "{b}: Don't worry. Tell them what you did in your last job.",
        "{a}: And if they ask about money?",
        "{b}: Say that you expect {price} an hour. And be there before {time}!",
        "{a}: Thanks, {b}. I will call you when it is over.",
    ],
]  # fmt: skip
_PROSE = [
    "{a} went to the {place} on {day} to buy {thing}. It cost {price}, so {a} asked {b} for advice.",
    "The {place} will be closed on {day}. Visitors with a ticket can come back at {time} on any other day.",
    "Dear {b}, please bring {thing} when we meet at the {place} on {day} at {time}. Best wishes, {a}",
    "{a} found {thing} in front of the {place}. Nobody knew whose it was, but {b} offered {price} for it.",
]
_CHARACTERS = [
    "{a}: “Café crème”, s'il te plaît! 😀\n{b}: Très bien — {price}.",
    "{a}: 你好, {b}! See you on {day}?\n{b}: Да, at {time} ☕",
]
_FORMS = [*("\n".join(lines) for lines in _DIALOGUES), *_PROSE, *_CHARACTERS]


def probe_texts(count: int) -> list[str]:
    """The first `count` texts; no two are equal, and neighbours have different forms."""
    draw = random.Random(0)
    texts: list[str] = []
    while len(texts) < count:
        form = _FORMS[len(texts) % len(_FORMS)]
        a, b, c = draw.sample(_NAMES, 3)
        choices = {"day": _DAYS, "time": _TIMES, "place": _PLACES, "thing": _THINGS, "price": _PRICES}
        text = form.format(a=a, b=b, c=c, **{name: draw.choice(values) for name, values in choices.items()})
        if text not in texts:
            texts.append(text)
    return texts
