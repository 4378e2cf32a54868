"""Entities for the tests of redaction, each with its kind, drawn from their specifications and by Faker."""

import ipaddress
import random
import string
from collections.abc import Callable, Iterator

from faker import Faker

LOCALES = [
    "en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pt_BR", "pt_PT", "sv_SE", "da_DK",
    "no_NO", "fi_FI", "pl_PL", "cs_CZ", "tr_TR", "ja_JP", "ko_KR", "zh_CN", "en_AU", "en_IN",
]  # fmt: skip
# Country, length, and how the account is written (ISO 13616): n digits, c digits or letters, a letters.
_IBANS = {"DE": "18n", "FR": "10n 11c 2n", "GB": "4a 14n", "NL": "4a 10n", "NO": "11n", "MT": "4a 5n 18c"}
_PHONES = (  # written as people write them, # is a digit
    "+1 (2##) 5##-####", "+44 20 7### ####", "+49 30 ######", "+33 6 ## ## ## ##", "+81-3-####-####",
    "(2##) 5##-####", "2##-5##-####", "2##.5##.####", "07### ######", "030/######", "06 ## ## ## ##",
    "+91 9#### #####", "0041 44 ### ## ##", "+55 11 9####-####", "5##-####", "2##-5##-#### ext. ###",
    "0171#######", "+4670#######", "+86 138 #### ####", "011 44 20 #### ####",
)  # fmt: skip
_CARDS = {"4": 16, "51": 16, "34": 15, "6011": 16, "3528": 16, "30": 14}


def made(seed: int) -> Iterator[tuple[str, str]]:
    """Endless (kind, entity), every kind as often."""
    rng = random.Random(seed)
    makers: dict[str, Callable[[random.Random], str]] = {
        "EMAIL": _email, "PHONE": _phone, "IBAN": _iban, "CARD": _card, "IP": _ip, "MAC": _mac,
        "SECRET": _secret,
    }  # fmt: skip
    while True:
        for kind, make in makers.items():
            yield kind, make(rng)


def faked(n_each: int) -> Iterator[tuple[str, str]]:
    """(kind, entity) by Faker, `n_each` of each kind in each locale."""
    for locale in LOCALES:
        fake = Faker(locale)
        fake.seed_instance(7)
        makers = {
            "EMAIL": [fake.email, fake.company_email], "PHONE": [fake.phone_number], "IBAN": [fake.iban],
            "CARD": [fake.credit_card_number], "IP": [fake.ipv4, fake.ipv6], "MAC": [fake.mac_address],
        }  # fmt: skip
        for kind, choices in makers.items():
            for i in range(n_each):
                yield kind, choices[i % len(choices)]()


def _text(rng: random.Random, alphabet: str, low: int, high: int) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(low, high)))


def _email(rng: random.Random) -> str:
    local = _text(rng, string.ascii_letters + string.digits, 1, 12)
    tag = rng.choice(["", ".", "_", "+", "-", "'"])
    if tag:
        local += tag + _text(rng, string.ascii_lowercase, 1, 8)
    domain = ".".join(_text(rng, string.ascii_lowercase, 2, 9) for _ in range(rng.randint(1, 3)))
    return f"{local}@{domain}.{rng.choice(['com', 'org', 'co.uk', 'de', 'museum', 'io'])}"


def _phone(rng: random.Random) -> str:
    return "".join(rng.choice("23456789") if c == "#" else c for c in rng.choice(_PHONES))


def _iban(rng: random.Random) -> str:
    country = rng.choice(list(_IBANS))
    alphabets = {"n": string.digits, "a": string.ascii_uppercase, "c": string.ascii_uppercase + string.digits}
    account = "".join(_text(rng, alphabets[p[-1]], int(p[:-1]), int(p[:-1])) for p in _IBANS[country].split())
    checked = "".join(str(int(c, 36)) for c in account + country + "00")
    iban = f"{country}{98 - int(checked) % 97:02}{account}"
    return " ".join(iban[i : i + 4] for i in range(0, len(iban), 4)) if rng.random() < 0.5 else iban


def _card(rng: random.Random) -> str:
    prefix = rng.choice(list(_CARDS))
    number = prefix + _text(rng, string.digits, n := _CARDS[prefix] - len(prefix) - 1, n)
    total = sum(
        d if i % 2 else (2 * d if d < 5 else 2 * d - 9) for i, d in enumerate(map(int, reversed(number)))
    )
    number += str(-total % 10)
    separator = rng.choice(["", " ", "-"])
    return separator.join(number[i : i + 4] for i in range(0, len(number), 4))


def _ip(rng: random.Random) -> str:
    if rng.random() < 0.5:
        return str(ipaddress.IPv4Address(rng.getrandbits(32)))
    address = ipaddress.IPv6Address(rng.getrandbits(128) & ~(0xFFFF_FFFF_FFFF << 32 * rng.randint(0, 2)))
    return rng.choice([str(address), address.exploded, str(address).upper()])


def _mac(rng: random.Random) -> str:
    octets = [f"{rng.getrandbits(8):02x}" for _ in range(6)]
    dotted = ".".join("".join(octets[i : i + 2]) for i in (0, 2, 4))
    return rng.choice([":".join(octets), "-".join(octets).upper(), dotted])


def _secret(rng: random.Random) -> str:
    letters = string.ascii_letters + string.digits
    prefix, n = rng.choice(
        [("sk-", 40), ("ghp_", 36), ("AKIA", 16), ("AIza", 35), ("xoxb-", 40), ("hf_", 34), ("", 40)]
    )
    if prefix == "AKIA":
        letters = string.ascii_uppercase + string.digits
    return prefix + _text(rng, letters, n, n)
