"""Slot errors of E2E outputs: which facts of a meaning representation a sentence leaves out or contradicts.

    slot_errors("name[Zizzi], food[French], familyFriendly[no]", "Zizzi serves French food to families.")
    # {"familyFriendly"}

A slot is right if the sentence says its value by one of the usual phrasings of the corpus, and wrong if not,
or if it has a slot that was not asked for. The error rate is wrong slots / slots, as in
"Findings of the E2E NLG Challenge" (https://arxiv.org/abs/1810.01170).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_MR = re.compile(r"\s*([A-Za-z ]+?)\[([^\]]*)\](?:,|$)")


def _any(*phrasings: str) -> re.Pattern[str]:
    return re.compile("|".join(phrasings))


_CITY = r"(?:city|town)"
_CENTRE = r"(?:cent(?:er|re))"
_COST = r"(?:price|cost)"
_KIDS = r"(?:famil(?:y|ies)|kids?|child(?:ren)?s?|youngsters)"
_NO = (
    r"\b(?:not?|non|nor|isn't|n't|never|without|un|lacks?|against|neither|inappropriate|unsuitable"
    r"|unfriendly)\b"
)
_RATED = (
    r"(?:rat(?:ed|ings?|es?)|reviews?|scores?|customers?|satisf\w+|quality|recommend\w*|stars?|class"
    r"|praise\w*|regarded|acclaimed)"
)

_NOT_FAMILY = _any(
    rf"{_NO}[^.;]{{0,45}}?\b{_KIDS}",
    rf"\b{_KIDS}[ -]*(?:friendly)?[^.;,]{{0,20}}?\b(?:not|n't|no|unfriendly|unwelcome|prohibited)\b",
    rf"\b{_KIDS}[ -](?:unfriendly|free)",
    r"\b(?:adults?|grown[ -]?ups?)\b",
)
_FAMILY = _any(rf"\b{_KIDS}", r"all ages?", r"everyone")

_AREAS = {
    "city centre": _any(
        rf"{_CITY}[ -](?:{_CENTRE}|area)", rf"{_CENTRE} of (?:the )?{_CITY}", "downtown", "inner city",
        rf"(?:in|of) (?:the )?(?:city|{_CENTRE})\b",
    ),
    "riverside": _any("river"),
}  # fmt: skip
_CHEAP = (
    "cheap", "inexpensive", rf"low(?:er)?[ -](?:{_COST}|budget)", rf"low in {_COST}", "budget", "affordabl",
    rf"{_COST}s?[^.]{{0,25}}\blow\b", "economical", "bargain",
)  # fmt: skip
_MODERATE = (
    "moderate", "mid[ -]?(?:range|price|level)", rf"average(?:ly)?[ -]{_COST}", "reasonabl", "medium",
    rf"{_COST}s?[^.]{{0,25}}\b(?:average|fair|decent)", "fair(?:ly)?[ -]price", "affordabl",
)  # fmt: skip
_HIGH = (
    rf"high(?:er|ly)?[ -]*(?:end|{_COST})", "expensive", rf"{_COST}[^.]{{0,35}}\bhigh",
    rf"high[^.]{{0,20}}{_COST}", "price?y", "upscale", "costly", "above average",
)  # fmt: skip
_PRICES = {
    "cheap": _any(*_CHEAP),
    "moderate": _any(*_MODERATE),
    "high": _any(*_HIGH),
    "less than £20": _any(
        "(?:less|lower|cheaper|no more) (?:than|then) *£? *20", "£20 (?:or|and) (?:less|under|below)", "<£20",
        "(?:under|below|up to|within|beneath) *(?:the )?£? *20", *_CHEAP,
    ),
    "£20-25": _any("£? ?20(?:\\.00)? *(?:-|to|and|–|through|or|up to) *£? ?25", *_MODERATE),  # noqa: RUF001
    "more than £30": _any(
        "(?:more|higher|greater) (?:than|then) *£? *30", "£30 (?:and|or) (?:up|more|above|over|higher)",
        "(?:over|above|exceeds?|exceeding|upwards of|from|at least|starts? (?:at|from)) *(?:the )?£? *30",
        "(?:starting at|minimum of) *£? *30", "30 pounds", "£30\\+", *_HIGH,
    ),
}  # fmt: skip


def _rated(words: str, *more: str) -> re.Pattern[str]:
    return _any(rf"\b(?:{words})\w*\b[^.]{{0,40}}{_RATED}", rf"{_RATED}[^.]{{0,40}}\b(?:{words})", *more)


def _out_of_five(number: str) -> re.Pattern[str]:
    return _any(
        rf"\b(?:{number})[ -]*(?:out of|of|/|star)",
        rf"\b(?:rat\w+|scores?\w*)[^.]{{0,25}}(?<!of )\b(?:{number})\b",
    )


_RATINGS = {
    "1 out of 5": _out_of_five("1|one"),
    "3 out of 5": _out_of_five("3|three"),
    "5 out of 5": _out_of_five("5|five"),
    "low": _rated("low|poor|bad|1|one|below average|not well", "poorly", "unpopular", "lowly"),
    "average": _rated(
        "average|ok|okay|decent|moderate|3|three|mediocre|middling|fair|middle", "satisf", "average"
    ),
    "high": _rated("high|good|great|excellent|well|5|five|top|best|positive|fantastic", "highly", "popular"),
}
_NAMED_FOODS = {  # what says so where it was not asked for, too
    "Fast food": _any("fast[ -]?food"),
    "English": _any("english", "british"),
    "Italian": _any("italian"),
    "Japanese": _any("japanese", "sushi"),
    "Chinese": _any("chinese"),
    "Indian": _any(r"\bindian"),
    "French": _any("french"),
}
_FOODS = {
    "Fast food": _any("fast[ -]?food", "burgers?", "fries", "take[ -]?away"),
    "English": _any("english", "british", "fish and chips", "traditional", "roast"),
    "Italian": _any("italian", "pasta", "pizza", "spaghetti"),
    "Japanese": _NAMED_FOODS["Japanese"],
    "Chinese": _any("chinese", "noodles?"),
    "Indian": _any(r"\bindian", "curr(?:y|ies)"),
    "French": _any("french", "wine"),
}
_EAT_TYPES = {
    "restaurant": _any("restaurant", "dining", "eatery", "diner", "place", "establishment", "venue"),
    "pub": _any(r"\bpubs?\b", r"\bbar\b"),
    "coffee shop": _any("coffee", "caf[eé]"),
}
_PHRASINGS = {
    "area": _AREAS, "priceRange": _PRICES, "customer rating": _RATINGS, "food": _FOODS, "eatType": _EAT_TYPES,
}  # fmt: skip
_NEAR_A_NAME = re.compile(r"\bnear (?:to )?(?:the )?(?!City|Centre|Center|River)[A-Z]")

Facts = Mapping[str, str]


@dataclass(frozen=True)
class SlotErrors:
    """Over a set of outputs."""

    n_slots: int
    n_wrong: int  # left out, contradicted or added

    @property
    def rate(self) -> float:
        """Wrong slots / slots."""
        return self.n_wrong / max(self.n_slots, 1)


def parse_mr(source: str) -> dict[str, str]:
    """Slot -> value of a meaning representation such as `name[Zizzi], food[French]`; empty if it is none."""
    facts: dict[str, str] = {}
    position = 0
    while match := _MR.match(source, position):
        facts[match[1]] = match[2]
        position = match.end()
    return facts if position == len(source) else {}


def slot_errors(source: str, output: str) -> set[str]:
    """The slots that the output leaves out, contradicts or adds."""
    facts = parse_mr(source)
    said = output.lower()
    for slot in ("name", "near"):  # "Raja Indian Cuisine" says nothing about food
        if slot in facts:
            said = said.replace(facts[slot].lower(), slot)
    missing = {slot for slot, value in facts.items() if not _says(slot, value, said, output)}
    return missing | _added(facts, said, output)


def slot_error_rate(sources: Iterable[str], outputs: Sequence[str]) -> SlotErrors:
    """Over all pairs; sources come without prefix."""
    n_slots = n_wrong = 0
    for source, output in zip(sources, outputs, strict=True):
        n_slots += len(parse_mr(source))
        n_wrong += len(slot_errors(source, output))
    return SlotErrors(n_slots, n_wrong)


def _says(slot: str, value: str, said: str, output: str) -> bool:
    """`said` is the output in lower case, with `name` and `near` in the place of their values."""
    if slot in ("name", "near"):
        return value.lower() in output.lower()
    if slot == "familyFriendly":
        denied = _NOT_FAMILY.search(said) is not None
        return denied if value == "no" else not denied and _FAMILY.search(said) is not None
    phrasings = _PHRASINGS.get(slot, {}).get(value)
    return value.lower() in said if phrasings is None else phrasings.search(said) is not None


def _added(facts: Facts, said: str, output: str) -> set[str]:
    """Slots whose values are said although they were not asked for, or beside those that were."""
    added = set()
    for slot, values in (("area", _AREAS), ("food", _NAMED_FOODS)):
        if any(value != facts.get(slot) and phrasing.search(said) for value, phrasing in values.items()):
            added.add(slot)
    if "familyFriendly" not in facts and re.search(rf"\b{_KIDS}[ -]*friendly", said):
        added.add("familyFriendly")
    if "near" not in facts and _NEAR_A_NAME.search(output):
        added.add("near")
    return added
