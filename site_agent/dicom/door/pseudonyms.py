"""Keyed pseudonyms of patients, studies and UIDs: the same at one site every time, of no use without its secret.

HMAC-SHA256 (RFC 2104) under the site's secret, a purpose of its own for each kind of name, so that no two kinds can be
linked by equal digests. Whoever knows a patient's identifier but not the secret cannot tell whether that patient is
there. UIDs become 2.25 and a UUID (PS3.5, B.2; RFC 9562, version 8), to the same one wherever they are named, so that
references between objects still hold.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from typing import Any

from messages.ground.written.identifiers import normalise_identifier
from site_agent.dicom.base import join_values
from site_agent.dicom.door import profile_table as table

_PSEUDONYM = 16
"""Hexadecimal digits of a patient's or case's pseudonym: 64 bits, so that a million of them collide once in 37
million sites."""

REMEMBERED = 65536
"""UIDs whose pseudonyms are kept at hand: an enhanced object names one in each of thousands of frames."""


@lru_cache(maxsize=1)
def _registered_uids() -> frozenset[str]:
    """UIDs that DICOM itself gave out (PS3.6, table A-1): SOP classes, transfer syntaxes, well-known instances."""
    from pydicom.uid import UID_dictionary

    return frozenset(UID_dictionary) | {table.LABEL_MAP}


def patient_identity(obj: Any) -> str:
    """What names an object's patient at its source: "ID", or "ID^^^ISSUER" (as HL7's CX writes it) if both are given.

    "" where the object names none. Identifies a patient: never logged, never written.
    """
    number, issuer = (_read_plain(obj, keyword) for keyword in ("PatientID", "IssuerOfPatientID"))
    return f"{number}^^^{issuer}" if number and issuer else number


def _read_plain(obj: Any, keyword: str) -> str:
    try:
        return join_values(obj.get(keyword)).strip(" \0")
    except (ValueError, TypeError, LookupError):  # damaged; pydicom's words would quote it
        return ""


def list_identities(obj: Any) -> set[str]:
    """Every Patient ID that an object names: its own with its issuer, others' (0010,1000), (0010,1002), and those that
    an archive replaced (0400,0561). Identify a patient: never logged, never written."""
    found = {patient_identity(obj), _read_plain(obj, "OtherPatientIDs")}
    items = _list_items(obj, "OtherPatientIDsSequence")
    for replaced in _list_items(obj, "OriginalAttributesSequence"):
        items += _list_items(replaced, "ModifiedAttributesSequence")
    return (found | {_read_plain(item, "PatientID") for item in items}) - {""}


def _list_items(obj: Any, keyword: str) -> list[Any]:
    try:
        return list(obj.get(keyword) or ())
    except (ValueError, TypeError, LookupError, AttributeError):  # damaged
        return []


class Pseudonyms:
    """The pseudonyms of one site.

    Args:
        secret: the site's own, 16 bytes or more.

    Attributes:
        secret: the same.

    Raises:
        ValueError: the secret is shorter.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError("pseudonyms need a secret of 16 bytes or more")
        self.secret = secret
        self._uids: dict[str, str] = {}

    def _keyed_digest(self, purpose: str, name: str) -> bytes:
        # A purpose is of fixed text without 0xff, which UTF-8 never holds: no two inputs run together.
        text = b"konsil-dicom-" + purpose.encode() + b"\xff" + name.encode("utf-8", "surrogateescape")
        return hmac.new(self.secret, text, sha256).digest()

    def pseudonym_of_patient(self, identity: str) -> str:
        """ "p" and 16 hexadecimal digits, of a Patient ID: the same for all that look the same."""
        return "p" + self._keyed_digest("patient", normalise_identifier(identity)).hex()[:_PSEUDONYM]

    def digest_of_likeness(self, likeness: str) -> str:
        """32 hexadecimal digits, of a name's likeness (`messages.ground.written.identifiers`)."""
        return self._keyed_digest("likeness", likeness).hex()[:32]

    def pseudonyms_of_withdrawn(self, listed: Iterable[str]) -> set[str]:
        """Pseudonyms of every patient whom a list of the withdrawn may mean: an issuer plays no part in them."""
        return {self.pseudonym_of_patient(one) for entry in listed for one in (entry, entry.partition("^^^")[0])}

    def patient_of(self, obj: Any) -> str:
        """The pseudonym of an object's patient; where it names none, one of its own for each study.

        The issuer plays no part: one Patient ID of two issuers counts as one patient, so that nobody lands in training
        and in test.
        """
        number = patient_identity(obj).partition("^^^")[0]
        return self.pseudonym_of_patient(number or f"study {_read_plain(obj, 'StudyInstanceUID')}")

    def pseudonym_of_case(self, study_uid: str) -> str:
        """ "case-" and 16 hexadecimal digits, of the Study Instance UID as the source has it."""
        return "case-" + self._keyed_digest("case", study_uid.strip(" \0")).hex()[:_PSEUDONYM]

    def pseudonym_of_uid(self, uid: str) -> str:
        """The UID that stands for this one; registered ones (SOP classes, transfer syntaxes) and "" stay."""
        plain = str(uid).strip(" \0")
        if not plain or plain in _registered_uids():
            return plain
        known = self._uids.get(plain)
        if known is None:
            digest = bytearray(self._keyed_digest("uid", plain)[:16])
            digest[6] = digest[6] & 0x0F | 0x80  # version 8: the rest is ours to say (RFC 9562, 5.8)
            digest[8] = digest[8] & 0x3F | 0x80  # the RFC's variant
            known = f"2.25.{int.from_bytes(digest, 'big')}"
            if len(self._uids) >= REMEMBERED:
                self._uids.clear()
            self._uids[plain] = known
        return known

    def pseudonym_of_word(self, text: str) -> str:
        """A token for a word that DICOM does not define: "X" and 12 digits, fit for VR CS; equal for equal words."""
        return "X" + self._keyed_digest("word", text.strip(" \0")).hex()[:12].upper()
