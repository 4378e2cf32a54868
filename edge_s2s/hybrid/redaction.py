"""Takes what identifies people and machines out of a text, and puts it back into an answer.

    redacted = redact("Write to ann@example.org", deny_list=["Project Heron"])
    redacted.text                                # Write to <EMAIL_1>
    redacted.restore("They wrote to <email 1>.")  # They wrote to ann@example.org.

Found are e-mail addresses, phone numbers, IBANs (ISO 7064 mod 97), payment cards (Luhn), IPv4, IPv6 and MAC
addresses, user names and passwords in URLs, secrets in queries, what looks like an API key, and phrases of a
list. When in doubt it is redacted: a number of ten digits may be a phone number.

Not found are names of people, postal addresses, dates of birth, and identifiers of other forms, such as
passport numbers. No pattern can tell these from other words; a deny-list can name those that matter.

Every pattern reads a bounded number of characters from each place where it may begin, so time is proportional
to the length of the text.
"""

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

KINDS = ("PRIVATE", "SECRET", "CREDENTIALS", "EMAIL", "IBAN", "MAC", "IP", "CARD", "PHONE")
"""What a placeholder can be called; where two overlap, the earlier one names them both."""


@dataclass(frozen=True)
class Redacted:
    """A text with placeholders, and what they stand for, which never leaves this process."""

    text: str
    placeholders: Mapping[str, str] = field(repr=False)
    """From `<EMAIL_1>` to the original"""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many different values of each kind were found."""
        return Counter(name[1:].rpartition("_")[0] for name in self.placeholders)

    def restore(self, answer: str) -> str:
        """The answer with the originals in the place of their placeholders.

        A placeholder may have come back in other case, with other brackets, with a blank or a hyphen for
        its underscore, escaped for Markdown or HTML, or, if the underscore is there, without brackets.
        Those that `redact` did not make are left as they are.
        """
        return _RETURNED.sub(lambda found: self.placeholders.get(_name(found), found[0]), answer)

    def unknown_placeholders(self, answer: str) -> list[str]:
        """Placeholders in the answer that `redact` did not make."""
        return [found[0] for found in _RETURNED.finditer(answer) if _name(found) not in self.placeholders]


def redact(text: str, deny_list: Iterable[str] = ()) -> Redacted:
    """Replaces each entity, and each phrase of `deny_list` in any case, by a placeholder.

    The same value has the same placeholder everywhere in the text. Placeholders that the text has already
    are not used. A blank phrase is a ValueError.
    """
    taken = {_name(found) for found in _RETURNED.finditer(text)}
    by_value: dict[tuple[str, str], str] = {}
    n_of_kind: Counter[str] = Counter()
    pieces, end = [], 0
    for span in _merged([*_deny_listed(text, deny_list), *_entities(text)]):
        value = text[span.start : span.end]
        if (name := by_value.get((span.kind, value))) is None:
            while True:
                n_of_kind[span.kind] += 1
                name = f"<{span.kind}_{n_of_kind[span.kind]}>"
                if name not in taken:
                    break
            by_value[span.kind, value] = name
        pieces += [text[end : span.start], name]
        end = span.end
    pieces.append(text[end:])
    return Redacted("".join(pieces), {name: value for (_, value), name in by_value.items()})


_BRACKETS = {"<": ">", "[": "]", "{": "}", "(": ")", "&lt;": "&gt;", "＜": "＞"}  # noqa: RUF001  # full-width too
_KIND = "|".join(KINDS)
_RETURNED = re.compile(
    rf"(?:{'|'.join(map(re.escape, _BRACKETS))})\s?({_KIND})\s?\\?[_\- ]?\s?(\d{{1,6}})\s?"
    rf"(?:{'|'.join(map(re.escape, _BRACKETS.values()))})"
    rf"|(?<!\w)({_KIND})\\?_(\d{{1,6}})(?!\w)",
    re.IGNORECASE,
)


def _name(found: re.Match[str]) -> str:
    kind, number = found[1] or found[3], found[2] or found[4]
    return f"<{kind.upper()}_{int(number)}>"


# ------------------------------------------------- finding -------------------------------------------------


class _Span(NamedTuple):
    start: int
    end: int
    kind: str


def _merged(spans: Sequence[_Span]) -> Iterator[_Span]:
    """Spans in order; those that overlap become one, so that nothing of either is left."""
    merged: _Span | None = None
    for span in sorted(spans):
        if merged is None or span.start >= merged.end:
            if merged is not None:
                yield merged
            merged = span
        else:
            kind = min(merged.kind, span.kind, key=KINDS.index)
            merged = _Span(merged.start, max(merged.end, span.end), kind)
    if merged is not None:
        yield merged


def _deny_listed(text: str, deny_list: Iterable[str]) -> Iterator[_Span]:
    phrases = sorted({" ".join(phrase.split()) for phrase in deny_list}, key=len, reverse=True)
    if not phrases:
        return
    if "" in phrases:
        raise ValueError("deny_list: expected words or phrases, found a blank one")
    pattern = "|".join(re.escape(phrase).replace(r"\ ", r"\s{1,16}") for phrase in phrases)
    for found in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE):
        yield _Span(*found.span(), "PRIVATE")


def _entities(text: str) -> Iterator[_Span]:
    for kind, pattern, check in _RECOGNIZERS:
        for found in pattern.finditer(text):
            if (span := check(found)) is not None:
                yield _Span(*span, kind)


_Check = Callable[[re.Match[str]], tuple[int, int] | None]


def _always(found: re.Match[str]) -> tuple[int, int]:
    """The group `value`, or all of the match."""
    return found.span("value" if "value" in found.re.groupindex else 0)


_SECRET_NAME = re.compile(
    r"(?:^|[_.\-])(?:key|sig|auth|code|sid|pwd|jwt)$|token|secret|signature|passw|api_?key|apikey|credential|session",
    re.IGNORECASE,
)


def _secret_query(found: re.Match[str]) -> tuple[int, int] | None:
    return found.span("value") if _SECRET_NAME.search(found["name"]) else None


def _assigned_secret(found: re.Match[str]) -> tuple[int, int] | None:
    value = found["value"]
    return found.span("value") if re.search(r"\d|[^\w.]", value) and not value.startswith("<") else None


def _random_looking(found: re.Match[str]) -> tuple[int, int] | None:
    """A long part of letters and digits in no order, with more than 3 bits a character."""
    part = max(re.split(r"[-_/+=]", found[0]), key=len)
    changes = len(re.findall(r"[A-Za-z](?=\d)|\d(?=[A-Za-z])", part))
    if len(part) < 16 or changes < 3:
        return None
    entropy = -sum(n / len(part) * math.log2(n / len(part)) for n in Counter(part).values())
    return found.span() if entropy > 3 else None


_IBAN_LENGTHS = {  # of the SWIFT registry, by country
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ DZ ES MD PK RO SA SE SK TN VG YE", 25: "LY PT ST", 26: "IR IS TR",
        27: "BF BI BJ CF CG CI CM CV DJ FR GA GR GW IT KM MA MC MG ML MR MZ NE SM SN TD TG",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU", 31: "MT SC",
        32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def _iban(found: re.Match[str]) -> tuple[int, int] | None:
    text = found[0]
    length = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    ends = [i + 1 for i, c in enumerate(text) if c.isalnum()]
    if not length or len(ends) < length:
        return None
    end = ends[length - 1]
    if text[end : end + 1].isalnum():
        return None
    compact = re.sub("[ -]", "", text[:end]).upper()
    number = "".join(str(int(c, 36)) for c in compact[4:] + compact[:4])
    return (found.start(), found.start() + end) if int(number) % 97 == 1 else None


_CARDS = ("1800", "2", "3", "4", "5", "6")


def _card(found: re.Match[str]) -> tuple[int, int] | None:
    """The longest group of digits that passes, as a date or a code may follow."""
    text = found[0]
    ends = [i + 1 for i, c in enumerate(text) if c.isdigit() and not text[i + 1 : i + 2].isdigit()]
    for end in reversed(ends):
        digits = [int(c) for c in text[:end] if c.isdigit()]
        if 12 <= len(digits) <= 19 and text.startswith(_CARDS) and _luhn(digits):
            return found.start(), found.start() + end
    return None


def _luhn(digits: Sequence[int]) -> bool:
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _ip(found: re.Match[str]) -> tuple[int, int] | None:
    """With a digit, as "::" and "a::b" are C++; without the point or colon that ends a sentence."""
    for text in (found[0], found[0][:-1]):
        colons = "::" in text or text.count(":") == 7
        if (colons or text.count(".") == 3) and len(text) > 2 and re.search(r"\d", text):
            try:
                ipaddress.ip_address(text.partition("%")[0])
            except ValueError:
                continue
            return found.start(), found.start() + len(text)
    return None


def _phone(found: re.Match[str]) -> tuple[int, int] | None:
    """By the number of digits and how they are grouped; dates, amounts and plain numbers are none."""
    text, (start, end) = found["number"], found.span()
    if text[0] == "(" and text.count("(") > text.count(")"):  # of the sentence
        text, start = text[1:], start + 1
    groups = re.findall(r"\d+", text)
    digits, sizes = "".join(groups), [len(group) for group in groups]
    if len(set(digits)) == 1 or _DATE.match(text) or text.count("(") != text.count(")"):
        return None
    if "+" in text or digits.startswith(("00", "011")) or "(" in text or found["extension"]:
        plausible = 7 <= len(digits.lstrip("0")) <= 17
    elif len(groups) == 1:
        plausible = 8 <= len(digits) <= 12
    elif "." in text and len(groups) == 2:  # a decimal number
        plausible = False
    elif len(digits) < 9:
        plausible = sizes in ([3, 4], [4, 4], [2, 2, 2, 2], [3, 2, 3], [2, 3, 3], [3, 1, 3])
    else:
        thousands = digits.endswith("000") and set(sizes[1:]) == {3}
        plausible = len(digits) <= 13 and len(groups) <= 6 and min(sizes[1:]) > 1 and not thousands
    return (start, end) if plausible else None


_YEAR, _MONTH, _DAY = r"(?:1[5-9]|20)\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_DATE = re.compile(
    rf"(?:{_YEAR}[-./ ]?{_MONTH}[-./ ]?{_DAY}|(?:{_DAY}[-./ ]?{_MONTH}|{_MONTH}[-./ ]?{_DAY})[-./ ]?{_YEAR}"
    rf"|{_YEAR} ?[-/] ?{_YEAR})$"
)
_LOCAL = r"[\w!#$%&*+/=?^{|}~.\-][\w!#$%&'*+/=?^{|}~.\-]{0,63}"
_KEY_PREFIXES = (
    r"sk-|sk_live_|sk_test_|pk_live_|rk_live_|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|hf_|npm_|pypi-|dop_v1_|"
    r"SG\.|AKIA|ASIA|AIza|ya29\.|shpat_|key-|whsec_|lin_api_|sq0csp-|EAA|glsa_|dckr_pat_|vault:|hvs\."
)
_RECOGNIZERS: tuple[tuple[str, re.Pattern[str], _Check], ...] = (
    (
        "SECRET",
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
            r"(?:[A-Za-z0-9+/=\s:,]|-(?!-)){0,16384}+-----END [A-Z ]{0,40}-----"
        ),
        _always,
    ),
    ("SECRET", re.compile(rf"(?<![A-Za-z0-9])(?:{_KEY_PREFIXES})[\w.\-]{{12,512}}(?<![.\-])"), _always),
    ("SECRET", re.compile(r"(?<!\w)eyJ[\w\-]{8,2048}\.[\w\-]{8,4096}\.[\w\-]{8,1024}"), _always),
    (
        "SECRET",
        re.compile(r"[?&;#](?P<name>[\w.\-]{1,64})=(?P<value>[^\s&#\"'<>;]{1,2048})(?<![.,!)])"),
        _secret_query,
    ),
    (
        "SECRET",
        re.compile(
            r"(?i:api[_\- ]?key|access[_\- ]?key|secret(?:[_\- ]?key)?|token|password|passwd|pwd|bearer)"
            r"[\"']?(?:\s{0,3}[:=]\s{0,3}|\s(?<=[Bb]earer\s))[\"']?(?P<value>[^\s\"',;<>&]{6,256})(?<![.,!)])"
        ),
        _assigned_secret,
    ),
    ("SECRET", re.compile(r"(?<![\w+/=\-.])[\w+/=\-]{20,512}(?![\w+/=\-])", re.ASCII), _random_looking),
    ("CREDENTIALS", re.compile(r"(?<=://)(?P<value>[^\s/?#]{1,256})@(?=[\w\[])"), _always),
    (
        "EMAIL",
        re.compile(
            rf"(?<![\w!#$%&*+/=?^{{|}}~.\-]){_LOCAL}@(?:[^\W_](?:[\w\-]{{0,62}})\.){{1,8}}[^\W\d_]{{2,24}}(?![\w\-])"
        ),
        _always,
    ),
    ("IBAN", re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,40}"), _iban),
    (
        "MAC",
        re.compile(
            r"(?<![\w:.\-])(?:[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})|"
            r"[0-9A-Fa-f]{4}(?:\.[0-9A-Fa-f]{4}){2})(?!\w|[:\-]\w)"
        ),
        _always,
    ),
    ("IP", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)", re.ASCII), _ip),
    ("IP", re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{0,4}:[0-9A-Fa-f:.]{1,41}(?:%\w{1,16})?(?!\w)"), _ip),
    ("CARD", re.compile(r"(?<![\w.,])[1-6]\d{3}(?:[ -]?\d){8,22}(?!\w)", re.ASCII), _card),
    (
        "PHONE",
        re.compile(
            r"(?<![\w.,$€£+:/=#-])(?P<number>\(?(?:\+ ?)?\(?\d(?:[ \u00a0.\-/()]{0,3}\d){6,17})"
            r"(?P<extension>(?: ?(?:x|ext\.?) ?\d{1,6})?)(?![\w%]|[.,:]\d)",
            re.ASCII,
        ),
        _phone,
    ),
)
