"""Names of patients and cases as people see them: when two are equal, and when one could mean the other. Pure.

Two forms of a name:

    normal     what no eye tells apart: two names with one normal form are one name, in a list and in the data
    likeness   what is left when people and spreadsheets have changed what they do not mean to change (case, accents,
               alphabet, what stands between letters and digits, a number's leading zeros): two names with one likeness
               may be one patient, and no program can tell
"""

from __future__ import annotations

import re
import unicodedata

_IGNORED = dict.fromkeys(
    [0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)]
)
"""Letters without a shape that are not of category Cf (Unicode's Default_Ignorable_Code_Point)."""
_HYPHENS = dict.fromkeys([*range(0x2010, 0x2016), 0x2043, 0x2212, 0xFE58, 0xFE63, 0xFF0D], "-")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FROM_OTHER_ALPHABETS = str.maketrans(
    "авекмнорстухіјѕһԛԝ" + "αβεζηικμνορτυχ" + "ıſ",
    "abekmhopctyxijshqw" + "abezhikmnoptyx" + "is",
)  # fmt: skip
"""Cyrillic and Greek letters that look like Latin ones, in lower case."""
_TOKEN = re.compile(r"[0-9]+|[^\W\d_]+")
_GROUPED = re.compile(r"[0-9]{1,3}(?:[.,' ][0-9]{3})+")
_OF_FLOAT = re.compile(r"([0-9]+)[.,]0+")
_WORDS = re.compile(r"[\s:=()\[\]<>#]+|//")
_MOST_TOKENS = 16
_LEAST = 4
"""Letters and digits of the shortest run within an entry that may be a name of its own."""
_SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
EXCEL_DIGITS = 15
"""Digits that a spreadsheet keeps of a number; behind them it writes zeros."""
ISSUER = "^^^"
"""Between a Patient ID and its issuer, as HL7's CX writes it."""


def normalise_identifier(text: str) -> str:
    """What stands for a name wherever names are compared.

    Unicode's NFC; no letter without a shape; full-width letters and typographic hyphens as plain ones; control
    characters (DICOM pads with NUL) and every kind of space as a space, runs of them as one, none at the ends. Bytes
    that are no UTF-8 (`surrogateescape`) are read as Windows-1252.
    """
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip(" ")
    text = unicodedata.normalize("NFC", _decode_escaped(text)).translate(_IGNORED)
    text = text.translate(_HYPHENS).translate(_FULL_WIDTH)
    kept = (
        " " if (kind := unicodedata.category(letter)) in ("Zs", "Zl", "Zp", "Cc") else "" if kind == "Cf" else letter
        for letter in text
    )
    return re.sub(" +", " ", unicodedata.normalize("NFC", "".join(kept))).strip(" ")


def list_tokens(name: str) -> list[str]:
    """Runs of letters and of digits in a name; letters without case, accent and alphabet."""
    text = unicodedata.normalize("NFKD", _mend_mojibake(normalise_identifier(name)).casefold())
    text = "".join(letter for letter in text if not unicodedata.combining(letter)).translate(_FROM_OTHER_ALPHABETS)
    return _TOKEN.findall(_as_ascii_digits(text))


def liken_identifier(name: str) -> str:
    """The likeness of a name: its tokens. A name that is a number has no leading zeros: spreadsheets take them away."""
    return _join_tokens(list_tokens(name))


def _join_tokens(tokens: list[str]) -> str:
    return tokens[0].lstrip("0") or "0" if len(tokens) == 1 and tokens[0].isdecimal() else " ".join(tokens)


def list_likenesses(entry: str) -> frozenset[str]:
    """Likenesses of what else an entry of a list may mean, where it is nobody's as it stands.

    A word of it (what follows may be a remark), the last part of a path, a number as a spreadsheet shows it, and every
    run of tokens that is long enough to be a name.
    """
    entry = normalise_identifier(entry)
    meant = {entry, _SUFFIX.sub("", re.split(r"[/\\]", entry.rstrip("/\\"))[-1]), *_WORDS.split(entry)}
    if _GROUPED.fullmatch(entry):
        meant.add(re.sub("[^0-9]", "", entry))
    if found := _OF_FLOAT.fullmatch(entry):
        meant.add(found[1])
    found_ones = {liken_identifier(one) for one in meant}
    tokens = list_tokens(entry)[:_MOST_TOKENS]
    runs = (tokens[first:last] for first in range(len(tokens)) for last in range(first + 1, len(tokens) + 1))
    return frozenset(found_ones | {_join_tokens(run) for run in runs if sum(map(len, run)) >= _LEAST}) - {""}


def may_be_rounded(entry: str, name: str) -> bool:
    """Whether an entry may be a spreadsheet's rounding of a name: a long number whose last digits became zeros."""
    digits, of_name = entry.lstrip("0"), name.lstrip("0")
    return (
        (digits + of_name).isdecimal()
        and len(digits) == len(of_name) > EXCEL_DIGITS
        and not digits[EXCEL_DIGITS:].strip("0")
        and digits[: EXCEL_DIGITS - 1] == of_name[: EXCEL_DIGITS - 1]
    )


def is_mojibake(text: str) -> bool:
    """Whether a text looks like UTF-8 that was read as Windows-1252 and saved again."""
    return _mend_mojibake(text) != text


def _mend_mojibake(text: str) -> str:
    if text.isascii():
        return text
    try:
        return text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return text


def _decode_escaped(text: str) -> str:
    """Lone bytes of a name on disk as the letters that they were on the machine that wrote it, most likely."""
    return re.sub(
        "[\udc80-\udcff]+", lambda found: found[0].encode("utf-8", "surrogateescape").decode("cp1252", "replace"), text
    )


def _as_ascii_digits(text: str) -> str:
    return "".join(str(unicodedata.decimal(letter)) if letter.isdecimal() else letter for letter in text)
