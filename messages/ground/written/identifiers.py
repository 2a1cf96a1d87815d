"""Names of patients and cases as people see them: when two are equal. Pure.

The normal form of a name is what no eye tells apart: two names with one normal form are one name, in a list and in the
data. When one name could mean another one, says `likeness`.
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


def is_mojibake(text: str) -> bool:
    """Whether a text looks like UTF-8 that was read as Windows-1252 and saved again."""
    return mend_mojibake(text) != text


def mend_mojibake(text: str) -> str:
    """A text that was UTF-8 and was read as Windows-1252, as it was; any other as it is."""
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
