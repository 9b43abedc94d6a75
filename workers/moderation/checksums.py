"""Check digits of cards, accounts and national ids. Pure.

Sources: ISO/IEC 7812-1 annex B (Luhn), ISO 13616-1 and the IBAN registry (lengths), Orden
INT/2058/2008 and Real Decreto 1553/2005 (DNI, NIE), INSEE (NIR), D.M. 23/12/1976 (codice fiscale),
Receita Federal (CPF), UIDAI (Aadhaar, Verhoeff 1969).
"""

from __future__ import annotations

from operator import mul

from workers.moderation.wordsets import words

_DOUBLED = bytes((2 * digit) % 9 if digit != 9 else 9 for digit in range(10)) + bytes(246)
_TO_VALUES = bytes((code - 48) % 256 for code in range(256))

_LETTER_VALUES = {ord("A") + place: str(10 + place) for place in range(26)}

IBAN_LENGTHS = {
    country: int(length)
    for country, length in (
        item.split(":")
        for item in words(
            """
            AD:24 AE:23 AL:28 AT:20 AZ:28 BA:20 BE:16 BG:22 BH:22 BI:27 BR:29 BY:28 CH:21 CR:22 CY:28
            CZ:24 DE:22 DJ:27 DK:18 DO:28 EE:20 EG:29 ES:24 FI:18 FK:18 FO:18 FR:27 GB:22 GE:22 GI:23
            GL:18 GR:27 GT:28 HR:21 HU:28 IE:22 IL:23 IQ:23 IS:26 IT:27 JO:30 KW:30 KZ:20 LB:28 LC:32
            LI:21 LT:20 LU:20 LV:21 LY:25 MC:27 MD:24 ME:22 MK:19 MN:20 MR:27 MT:31 MU:30 NI:28 NL:18
            NO:15 OM:23 PK:24 PL:28 PS:29 PT:25 QA:29 RO:24 RS:22 RU:33 SA:24 SC:31 SD:18 SE:24 SI:19
            SK:24 SM:27 SO:23 ST:25 SV:28 TL:23 TN:24 TR:26 UA:29 VA:22 VG:24 XK:20 YE:30
            """
        )
    )
}


def luhn(digits: str) -> bool:
    """Say whether the last of *digits* is the Luhn check digit of the others."""
    values = digits.encode().translate(_TO_VALUES)
    doubled = values.translate(_DOUBLED)
    return (sum(values[::-2]) + sum(doubled[-2::-2])) % 10 == 0


def card_length_fits(digits: str) -> bool:
    """Say whether a card scheme issues numbers that begin and are as long as *digits*.

    13-digit numbers are left out: Visa has not issued any for decades, and bar codes have 13 digits.
    """
    size, two, four = len(digits), int(digits[:2]), int(digits[:4])
    if digits[0] == "4":
        return size in (16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return size == 16
    if two in (34, 37):
        return size == 15
    if two in (36, 38, 39) or 300 <= int(digits[:3]) <= 305:
        return size in (14, 16)
    if four == 6011 or 644 <= int(digits[:3]) <= 649 or two == 65 or 3528 <= four <= 3589:
        return size in (16, 19)
    return (
        two in (62, 81, 50, 67) or 56 <= two <= 58 or four in (6304, 6390, 2200, 2201, 2202, 2203, 2204)
    ) and size in (
        16,
        18,
        19,
    )


def iban(compact: str) -> bool:
    """Say whether *compact*, without spaces, is an IBAN of its country's length (remainder 1 by 97)."""
    compact = compact.upper()
    if IBAN_LENGTHS.get(compact[:2]) != len(compact):
        return False
    return int((compact[4:] + compact[:4]).translate(_LETTER_VALUES)) % 97 == 1


def spanish_id(compact: str) -> bool:
    """Check the letter of a DNI (`12345678Z`) or NIE (`X1234567L`)."""
    number = compact[:-1].upper().replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1].upper()


def french_nir(digits: str) -> bool:
    """Check the two last digits of a French social security number of 15 digits."""
    month = int(digits[3:5])
    return (1 <= month <= 12 or 20 <= month <= 42) and 97 - int(digits[:13]) % 97 == int(digits[13:])


def brazilian_cpf(digits: str) -> bool:
    """Check both check digits of a CPF of 11 digits."""
    if len(set(digits)) == 1:
        return False
    values = digits.encode().translate(_TO_VALUES)
    for size in (9, 10):
        total = sum(map(mul, values, range(size + 1, 1, -1)))
        if values[size] != total * 10 % 11 % 10:
            return False
    return True


_CF_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            1,
            0,
            5,
            7,
            9,
            13,
            15,
            17,
            19,
            21,
            2,
            4,
            18,
            20,
            11,
            3,
            6,
            8,
            12,
            14,
            16,
            10,
            22,
            25,
            24,
            23,
        ),
        strict=True,
    )
)


_CF_EVEN = {char: int(char, 36) - 10 * char.isalpha() for char in _CF_ODD}


def italian_code(compact: str) -> bool:
    """Check the last letter of an Italian codice fiscale of 16 characters."""
    compact = compact.upper()
    total = sum(map(_CF_ODD.__getitem__, compact[0:15:2])) + sum(map(_CF_EVEN.__getitem__, compact[1:15:2]))
    return chr(ord("A") + total % 26) == compact[15]


_D5 = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_P8 = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")


def aadhaar(digits: str) -> bool:
    """Check the Verhoeff digit of an Indian Aadhaar number of 12 digits."""
    check = 0
    for place, digit in enumerate(reversed(digits)):
        check = int(_D5[check][int(_P8[place % 8][int(digit)])])
    return check == 0 and digits[0] not in "01"


def us_ssn(digits: str) -> bool:
    """Say whether area, group and serial of a US social security number are ones that are issued."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"
