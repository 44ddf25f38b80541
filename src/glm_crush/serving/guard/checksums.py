"""Check digits of numbers that name people, firms and accounts.

Above: the rules of private data. Below: nothing. Each takes digits without what stands between them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import date

__all__ = [
    "entropy",
    "is_card",
    "is_chinese_id",
    "is_cnpj",
    "is_cpf",
    "is_iban",
    "is_nif",
    "is_rg",
    "is_ssn",
    "luhn",
]

_CHINESE_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
# ISO 13616, as far as accounts are given to people and firms
_IBAN_LENGTHS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 "
    "FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 "
    "LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 "
    "SA24 SC31 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20"
)
_LENGTHS = {item[:2]: int(item[2:]) for item in _IBAN_LENGTHS.split()}


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """A payment card: a known issuer's beginning and length, and the check digit."""
    length, first = len(digits), int(digits[:4] or 0)
    known = (
        (digits[0] == "4" and length in (13, 16, 19))
        or (length == 16 and (5100 <= first <= 5599 or 2221 <= first <= 2720))
        or (length == 15 and digits[:2] in ("34", "37"))
        or (length == 14 and (3000 <= first <= 3059 or digits[:2] in ("36", "38")))
        or (length in (16, 19) and (first == 6011 or 6440 <= first <= 6599 or 3528 <= first <= 3589))
        or (length in (16, 17, 18, 19) and digits[:2] == "62")
        or (length == 16 and digits[:6] in ("504175", "606282", "636297", "636368"))
    )
    return known and luhn(digits)


def _check_digit(values: Sequence[int], weights: Sequence[int]) -> int:
    """Modulo 11, with 0 for the remainders 0 and 1."""
    rest = sum(value * weight for value, weight in zip(values, weights, strict=True)) % 11
    return 0 if rest < 2 else 11 - rest


def is_cpf(digits: str) -> bool:
    """Brazil's number of a person."""
    values = [int(digit) for digit in digits]
    return (
        len(values) == 11
        and len(set(values)) > 1
        and values[9] == _check_digit(values[:9], range(10, 1, -1))
        and values[10] == _check_digit(values[:10], range(11, 1, -1))
    )


def is_cnpj(characters: str) -> bool:
    """Brazil's number of a firm; since July 2026 with letters too."""
    if len(characters) != 14 or not characters[12:].isdigit() or len(set(characters)) == 1:
        return False
    values = [ord(character) - 48 for character in characters]
    weights = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
    return values[12] == _check_digit(values[:12], weights[1:]) and values[13] == _check_digit(values[:13], weights)


def is_nif(digits: str) -> bool:
    """Portugal's tax number."""
    if len(digits) != 9 or (digits[0] not in "12356789" and digits[:2] != "45"):
        return False
    values = [int(digit) for digit in digits]
    return values[8] == _check_digit(values[:8], range(9, 1, -1))


def is_rg(characters: str) -> bool:
    """An identity card of São Paulo: other states have other rules, or none."""
    if len(characters) != 9:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(characters[:8], range(2, 10), strict=True))
    last = 10 if characters[8] in "xX" else int(characters[8])
    return (total + 100 * last) % 11 == 0


def is_ssn(digits: str) -> bool:
    """A social security number that could have been given out."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return len(digits) == 9 and area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_chinese_id(characters: str) -> bool:
    """A resident identity number: GB 11643-1999, with a province and a day that exist."""
    if len(characters) != 18 or not 11 <= int(characters[:2]) <= 82:
        return False
    try:
        born = date(int(characters[6:10]), int(characters[10:12]), int(characters[12:14]))
    except ValueError:
        return False
    if not 1850 <= born.year <= 2100:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(characters[:17], _CHINESE_WEIGHTS, strict=True))
    return "10X98765432"[total % 11] == characters[17].upper()


def is_iban(characters: str) -> bool:
    """An account number of its country's length whose check digits hold (ISO 7064, modulo 97)."""
    if len(characters) != _LENGTHS.get(characters[:2]):
        return False
    turned = characters[4:] + characters[:4]
    return int("".join(str(int(character, 36)) for character in turned)) % 97 == 1


def entropy(text: str) -> float:
    """Bits per character, by how often each occurs in the text (Shannon)."""
    length = len(text)
    return -sum(count / length * math.log2(count / length) for count in Counter(text).values())
