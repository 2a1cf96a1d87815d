"""Coded concepts that may pass the door: those that the operator's labels name, and those that DICOM itself lists.

A code's meaning is free text and its value may be anybody's; so a code stays only where (scheme, value) is known from
elsewhere, and its meaning is written anew. Any other code becomes `WITHHELD`, which is still a code: a label that
carried one never counts as one without, unless its scheme is private.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

WITHHELD = ("99KONSIL", "withheld")
"""Coding scheme designator (private ones begin with 99: PS3.16, 8.2) and code value of a code that did not pass."""
WITHHELD_PRIVATE = ("99KONSIL", "withheld private")
"""As `WITHHELD`, of a private scheme: a planning system's own word for a kind of structure, which says nothing here."""
_SNOMED_RT = ("SRT", "SNM3", "99SDM")
"""Retired designators of SNOMED's old codes (PS3.16, 8.1)."""


@lru_cache(maxsize=1)
def _public_codes() -> Mapping[tuple[str, str], str]:
    """(scheme, value) → meaning, for every code of DICOM's context groups (PS3.16), as pydicom lists them."""
    # Private to pydicom, but its only list of all codes; its public face (`codedict.codes`) is by keyword.
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    known = {
        (scheme, value): str(meaning)
        for scheme, keywords in concepts.items()
        for codes in keywords.values()
        for value, (meaning, _) in codes.items()
    }
    for retired, current in mapping["SRT"].items():
        for scheme in _SNOMED_RT:
            known[scheme, retired] = known.get(("SCT", current), retired)
    return known


def is_private_scheme(scheme: str) -> bool:
    """Whether a coding scheme is private: 99 and anything, or L for "local" (PS3.16, 8.2; HL7 table 0396)."""
    return scheme.startswith("99") or scheme == "L"


class Codes:
    """Which codes pass.

    Args:
        own: what the operator's labels name, as "SCHEME:VALUE" → its concept.
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        self._own = {(scheme, value): name for key, name in own.items() for scheme, _, value in [key.partition(":")]}

    def pass_code(self, scheme: str, value: str) -> tuple[str, str, str]:
        """Scheme, value and meaning (64 characters at most, VR LO) of what is written for a code."""
        key = (scheme.strip(), value.strip())
        meaning = self._own.get(key) or _public_codes().get(key)
        if meaning is None:
            return (*(WITHHELD_PRIVATE if is_private_scheme(key[0]) else WITHHELD), "Withheld")
        return (*key, meaning[:64])
